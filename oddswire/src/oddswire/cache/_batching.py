"""Loads of many keys by one call of a loader."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from oddswire._numbers import shown
from oddswire._tasks import retrieve, spawn
from oddswire.cache._flight import loading
from oddswire.errors import ClosedError, OddswireError, WrongLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from oddswire.cache._flight import Flight
    from oddswire.cache._l1 import Item
    from oddswire.cache._loader import Loader
    from oddswire.cache.entry import LoadRequest

# Values of a batch that are stored in one turn of the loop.
_AT_ONCE = 8


class BatchLoad:
    """One call of a batch loader, with the keys that this process owns the load of.

    Each key goes the way of a single one: its own lease, its own fence. The loader is
    called as soon as every key is resolved: owned, found, or loaded elsewhere.

    Args:
        batch_loader: Returns values by key; a key it leaves out has the value None, and
            one whose value is an `Exception` failed with it.
        keys: Those that may have to be loaded.
        loader: Runs the call: the callers may leave before it has ended.
    """

    def __init__(
        self,
        batch_loader: Callable[[list[str]], Awaitable[Mapping[str, Any]]],
        keys: Sequence[str],
        loader: Loader,
    ) -> None:
        self._batch_loader = batch_loader
        self._unresolved = set(keys)
        self._owned: dict[str, asyncio.Future[Any]] = {}
        self._loading: tuple[Flight, ...] = ()
        self._loader = loader

    async def obtain(
        self, requests: Sequence[LoadRequest]
    ) -> dict[str, Item | Exception]:
        """Return the entries of the keys, loading by one call those that are missing.

        In place of an entry that could not be loaded there is what was raised for it.
        """
        loader = self._loader
        slots = [request.key.slot for request in requests]
        bypass = any(map(loader.redis_down, set(slots)))
        found: list[tuple[Item | None, bytes | None]] = [(None, None)] * len(requests)
        if not bypass:
            try:
                found = await loader.find_many(
                    [request.key for request in requests],
                    [request.value_type for request in requests],
                )
            except WrongLoop:
                raise
            except OddswireError as error:
                loader.note_redis_down(error, *slots)
                bypass = True
        if bypass:
            for request in requests:
                request.key.namespace.counters.misses += 1

        async def one(
            request: LoadRequest, item: Item | None, known_header: bytes | None
        ) -> Item:
            name = request.key.name
            if item is not None:
                flight = loader.refresh_if_due(request, item, known_header)
                if flight is None:
                    self.resolve(name)
                else:
                    # This caller is served before the owner of the load is known.
                    flight.future.add_done_callback(lambda _: self.resolve(name))
                return item
            try:
                return await loader.load_missing(request, known_header, bypass=bypass)
            finally:
                self.resolve(name)

        results = await asyncio.gather(
            *(
                one(request, item, known_header)
                for request, (item, known_header) in zip(requests, found, strict=True)
            ),
            return_exceptions=True,
        )
        items: dict[str, Item | Exception] = {}
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                raise result
            items[request.key.name] = result
        return items

    async def load(self, key: str) -> Any:
        """Return the value of an owned key; the loader of its flight."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._owned[key] = future
        self._loading += loading.get()
        self.resolve(key)
        try:
            return await future
        finally:
            self._owned.pop(key, None)

    def resolve(self, key: str) -> None:
        """The owner of a key's load is known; after the last key, call the loader."""
        self._unresolved.discard(key)
        if self._unresolved or all(each.done() for each in self._owned.values()):
            return
        owned, self._owned = self._owned, {}
        task = self._loader.spawn(self._call(owned), "oddswire batch")

        def end_if_unwanted(_: object) -> None:
            if all(future.cancelled() for future in owned.values()):
                task.cancel()

        for future in owned.values():
            future.add_done_callback(end_if_unwanted)

    async def _call(self, owned: dict[str, asyncio.Future[Any]]) -> None:
        # It is the loader of all of them.
        loading.set(self._loading)
        try:
            await _fulfil(owned, self._load)
        finally:
            # Cancelled, nothing comes of them any more.
            for future in owned.values():
                future.cancel()

    async def _load(self, keys: list[str]) -> Mapping[str, Any]:
        values: Any = self._batch_loader(keys)
        if inspect.isawaitable(values):
            values = await values
        if not isinstance(values, Mapping):
            raise TypeError(
                f"a batch loader returns a dict of values by key, not {shown(values)}"
            )
        return values


class Batcher:
    """Makes one batch of what is asked for within one turn of the loop.

    Args:
        obtain: Returns values by key, of the arguments by key; an `Exception` for one
            that failed.
        name: The key of an argument. What it raises is its caller's alone.
        max_batch: Arguments of one batch.
    """

    def __init__(
        self,
        obtain: Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]],
        name: Callable[[Any], str],
        max_batch: int,
    ) -> None:
        self._obtain = obtain
        self._name = name
        self._max_batch = max_batch
        # By key: arguments of the same text share an entry, and a load.
        self._waiting: dict[str, tuple[Any, asyncio.Future[Any]]] = {}
        self._loading: dict[str, tuple[Flight, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, argument: Any) -> Any:
        """Return the value of one argument; cancelled, the others get theirs."""
        name = self._name(argument)
        loop = asyncio.get_running_loop()
        _, future = self._waiting.get(name, (None, None))
        if future is None:
            if not self._waiting:
                loop.call_soon(self._begin)
            future = loop.create_future()
            self._waiting[name] = argument, future
            future.add_done_callback(retrieve)  # all callers may have left
        self._loading[name] = self._loading.get(name, ()) + loading.get()
        return await asyncio.shield(future)

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, {}
        loaders, self._loading = self._loading, {}
        names = list(waiting)
        for start in range(0, len(names), self._max_batch):
            part = {
                each: waiting[each] for each in names[start : start + self._max_batch]
            }
            futures = {name: future for name, (_, future) in part.items()}
            task = spawn(
                self._run(part, futures, sum((loaders[each] for each in part), ())),
                name="oddswire gathered batch",
                into=self._tasks,
            )
            # Not in the task: cancelled before its first step, it runs nothing.
            task.add_done_callback(partial(_close, futures.values()))

    async def _run(
        self,
        part: dict[str, tuple[Any, asyncio.Future[Any]]],
        futures: dict[str, asyncio.Future[Any]],
        loaders: tuple[Flight, ...],
    ) -> None:
        # A caller that waits for one of them waits for all.
        loading.set(loaders)
        arguments = {name: argument for name, (argument, _) in part.items()}
        await _fulfil(futures, lambda _: self._obtain(arguments))

    async def aclose(self) -> None:
        """End what is under way."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))


def _close(futures: Iterable[asyncio.Future[Any]], _: object) -> None:
    """End what a task has left; nobody cancels it but `Batcher.aclose`."""
    for future in futures:
        if not future.done():
            future.set_exception(ClosedError("the cache was closed"))


async def _fulfil(
    futures: dict[Any, asyncio.Future[Any]],
    load: Callable[[list[Any]], Awaitable[Mapping[Any, Any]]],
) -> None:
    """Load the values that futures wait for; an `Exception` fails its future."""
    try:
        values = await load(list(futures))
        for number, (key, future) in enumerate(futures.items()):
            if number % _AT_ONCE == _AT_ONCE - 1:
                # To store a hundred values takes milliseconds: others go between.
                await asyncio.sleep(0)
            if future.done():
                continue
            value = values.get(key)
            if isinstance(value, Exception):
                future.set_exception(value)
            else:
                future.set_result(value)
    except (Exception, BaseExceptionGroup, GeneratorExit) as error:  # noqa: BLE001 - a loader may raise anything; its callers get it
        for future in futures.values():
            if not future.done():
                future.set_exception(error)
