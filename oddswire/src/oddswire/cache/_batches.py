"""Loads of many keys by one call of a loader."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from oddswire._tasks import spawn
from oddswire.cache._flight import loading

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from oddswire.cache._flight import Flight, Want
    from oddswire.cache._flights import Flights
    from oddswire.cache._lookup import Lookup
    from oddswire.cache._memory import Item

# Values of a batch that are stored in one turn of the loop.
_AT_ONCE = 8


class Batch:
    """Calls a batch loader once with the keys that it falls to us to load.

    Each key goes the way of a single one: its own lease, its own fence. The loader is
    called as soon as it is known of every key whether it is ours.

    Args:
        loader: Returns values by key; a key it leaves out has the value None, and one
            whose value is an `Exception` failed with it.
        keys: Those that may have to be loaded.
        flights: They run the call: who asked may leave before it has ended.
    """

    def __init__(
        self,
        loader: Callable[[list[str]], Awaitable[Mapping[str, Any]]],
        keys: Sequence[str],
        flights: Flights,
    ) -> None:
        self._loader = loader
        self._keys = keys
        self._undecided = set(keys)
        self._wanted: dict[str, asyncio.Future[Any]] = {}
        self._loading: tuple[Flight, ...] = ()
        self._flights = flights

    def wants(
        self,
        lookup: Lookup,
        tags: Callable[[str], Iterable[str]] | Iterable[str],
        **options: Any,
    ) -> list[Want]:
        """Return what is asked for of each key; `options` as for `Lookup.want`."""
        return [
            lookup.want(
                key,
                functools.partial(self.load, key),
                tags=tags(key) if callable(tags) else tags,
                **options,
            )
            for key in self._keys
        ]

    async def load(self, key: str) -> Any:
        """Return the value of a key that is ours to load."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._wanted[key] = future
        self._loading += loading.get()
        self.settle(key)
        try:
            return await future
        finally:
            self._wanted.pop(key, None)

    def settle(self, key: str) -> None:
        """It is known of this key whether it is ours."""
        self._undecided.discard(key)
        if self._undecided or not any(
            not each.done() for each in self._wanted.values()
        ):
            return
        wanted, self._wanted = self._wanted, {}
        task = self._flights.spawn(self._call(wanted), "oddswire batch")
        for future in wanted.values():
            future.add_done_callback(lambda _: self._end_if_unwanted(wanted, task))

    @staticmethod
    def _end_if_unwanted(
        wanted: dict[str, asyncio.Future[Any]], task: asyncio.Task[None]
    ) -> None:
        if all(future.cancelled() for future in wanted.values()):
            task.cancel()

    async def _call(self, wanted: dict[str, asyncio.Future[Any]]) -> None:
        # It is the loader of all of them.
        loading.set(self._loading)
        try:
            values = await self._loader(list(wanted))
            for number, (key, future) in enumerate(wanted.items()):
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
        except asyncio.CancelledError:
            for future in wanted.values():
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - a loader may raise anything; who waits gets it
            for future in wanted.values():
                if not future.done():
                    future.set_exception(error)


async def obtain_many(
    lookup: Lookup, wants: Sequence[Want], batch: Batch
) -> dict[str, Item | Exception]:
    """Return the entries of many keys, loading by one call those that are not there.

    In place of an entry that could not be loaded there is what was raised for it.
    """
    found: list[tuple[Item | None, bytes | None]]
    bypass = lookup.away
    if not bypass:
        try:
            found = await lookup.find_many(
                [want.place for want in wants], [want.kind for want in wants]
            )
        except lookup.UNREACHABLE as error:
            lookup.gone_away(error)
            bypass = True
    if bypass:
        found = [(None, None)] * len(wants)
        for want in wants:
            want.place.space.counts.misses += 1

    async def one(want: Want, item: Item | None, head: bytes | None) -> Item:
        settle = functools.partial(batch.settle, want.place.key)
        if item is not None:
            flight = lookup.refresh(want, item, head, settle)
            if flight is None:
                settle()
            else:
                # Whether it is ours shows when this caller has been served.
                flight.future.add_done_callback(lambda _: settle())
            return item
        try:
            return await lookup.load(want, head, None, bypass=bypass, elsewhere=settle)
        finally:
            settle()

    items = await asyncio.gather(
        *(
            one(want, item, head)
            for want, (item, head) in zip(wants, found, strict=True)
        ),
        return_exceptions=True,
    )
    found_items: dict[str, Item | Exception] = {}
    for want, result in zip(wants, items, strict=True):
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
        found_items[want.place.key] = result
    return found_items


class Gatherer:
    """Gathers what is asked for within one turn of the loop into one batch.

    Args:
        obtain: Returns values by argument; an `Exception` for one that failed.
        most: Arguments in one batch.
    """

    def __init__(
        self,
        obtain: Callable[[list[Any]], Awaitable[Mapping[Any, Any]]],
        most: int,
    ) -> None:
        self._obtain = obtain
        self._most = most
        self._waiting: dict[Any, asyncio.Future[Any]] = {}
        self._loading: dict[Any, tuple[Flight, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, argument: Any) -> Any:
        """Return the value of one argument; cancelled, the others get theirs."""
        loop = asyncio.get_running_loop()
        future = self._waiting.get(argument)
        if future is None:
            if not self._waiting:
                loop.call_soon(self._go)
            future = self._waiting[argument] = loop.create_future()
            # It may be that nobody is left to hear of an error.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._loading[argument] = self._loading.get(argument, ()) + loading.get()
        return await asyncio.shield(future)

    def _go(self) -> None:
        waiting, self._waiting = self._waiting, {}
        loaders, self._loading = self._loading, {}
        arguments = list(waiting)
        for start in range(0, len(arguments), self._most):
            part = {
                each: waiting[each] for each in arguments[start : start + self._most]
            }
            task = spawn(
                self._run(part, sum((loaders[each] for each in part), ())),
                name="oddswire gathered batch",
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(
        self, part: dict[Any, asyncio.Future[Any]], loaders: tuple[Flight, ...]
    ) -> None:
        # Who waits for one of them waits for all, whoever was the first.
        loading.set(loaders)
        try:
            values = await self._obtain(list(part))
        except asyncio.CancelledError:
            for future in part.values():
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - a loader may raise anything; who waits gets it
            for future in part.values():
                future.set_exception(error)
        else:
            for argument, future in part.items():
                value = values[argument]
                if isinstance(value, Exception):
                    future.set_exception(value)
                else:
                    future.set_result(value)

    async def aclose(self) -> None:
        """End what is under way."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
