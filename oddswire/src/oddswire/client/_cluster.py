"""`ClusterClient`: the same client over the nodes of a Valkey or Redis Cluster.

A call of one key costs its slot and two look-ups more than on one server: the client of
the node that owns the slot does the rest. Everything else goes by `_execute_routed`.
"""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import msgspec
from redis.crc import key_slot

from oddswire.client._client import Client
from oddswire.client._cluster_keys import (
    LAST_SLOT,
    SUMMED,
    Scope,
    by_slot,
    cross_slot,
    keys_of,
    scope_of,
    slot_of,
    slot_of_all,
)
from oddswire.client._cluster_pipeline import ClusterPipeline
from oddswire.client._cluster_router import Router
from oddswire.client._commands import Retry, Route
from oddswire.client._pools import settings_with, split_options
from oddswire.client._statistics import ClientStats, ConnectionCounts, summarize
from oddswire.connection.errors import clone_error
from oddswire.errors import (
    NotOnCluster,
    NotShared,
    OddswireError,
    Outcome,
    SettingsError,
)
from oddswire.events import Events
from oddswire.logs import log_events

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from redis.typing import KeyT

    from oddswire.client._cluster_node import NodeClient
    from oddswire.client._commands import CommandSpec
    from oddswire.client._listening import Monitor, PubSub
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.settings import Settings
    from oddswire.settings.values import ReadFrom

T = TypeVar("T")

# The cursor of SCAN is one of a node; which node stands above its 64 bits.
_CURSOR_BITS = 64


class ClusterClient(Client):
    """A `Client` whose keys are on many nodes; ``Client.from_url("cluster://...")``.

    One command connection for each primary, opened when first needed. Commands of one
    key go to its node; MGET, DEL, UNLINK, EXISTS and TOUCH are split by slot, which
    ends their atomicity; DBSIZE, KEYS, SCAN, FLUSHALL and the like go to all primaries.
    Other commands with keys in several slots raise `CrossSlot`. What is about one
    node (INFO, CLIENT, WAIT ...) is asked of `primaries`.

    Args:
        settings: As for `Client`; `url` names some nodes.
        events: As for `Client`.
        **options: As for `Client`, without a pool, a transport and an address.

    Raises:
        SettingsError: As from `Client`; from the first call, if the server there is no
            cluster.
        CrossSlot: From a command whose keys are in different slots.
        ClusterDown: From a command whose slot has no node until the deadline.
        NotOnCluster: From what works on one server alone.
    """

    is_cluster = True
    in_cluster = True
    # Of a view by `at`: the slot whose owner is asked what is about one node.
    _slot: int | None = None

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        events: Events | None = None,
        **options: Any,
    ) -> None:
        ours, theirs = split_options(options)
        for name in ("connection_pool", "transport", "single_connection_client",
                     "host", "port", "path", "unix_socket_path"):  # fmt: skip
            if theirs.get(name):
                raise SettingsError(f"{name} is of one server, and the URL a cluster's")
        settings = settings_with(settings, ours)
        endpoint = settings.endpoint
        if endpoint is None or not endpoint.seeds:
            raise SettingsError("the URL must be cluster://host:port,host:port")
        if events is None:
            events = Events()
            log_events(events)
        # Nothing connects by these: each node has a client with connections of its own.
        first = _of_node(settings, *endpoint.seeds[0])
        super().__init__(settings=first, events=events, **theirs)
        self._settings = settings

        def make(
            kind: type[NodeClient], router: Router, host: str, port: int
        ) -> NodeClient:
            return kind(
                endpoint.at(host, port).address,
                router,
                specs=self._specs,
                failures=self._failures,
                callbacks=self.response_callbacks,
                settings=_of_node(settings, host, port),
                events=events,
                **theirs,
            )

        self._router = Router(
            endpoint,
            settings,
            events,
            self._connections.metrics,
            make=make,
            on_retry=self.count_retry,
            check_loop=self._connections.loop_guard.check,
        )
        self._slots = self._router.slots
        self._read_from: ReadFrom = settings.read_from
        self._calls = self._router.calls_within(self.timeout, self._read_from)

    # --- a call

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command to the node of its key; see `Client.execute_command`."""
        # Written out: this is all that a call costs more than on one server.
        try:
            calls = self._calls[args[0]]
            key = args[1]
            if key.__class__ is str:
                data = key.encode()
                slot = key_slot(data) if "{" in key else crc_hqx(data, 0) & LAST_SLOT
            else:
                slot = key_slot(key)
        except (KeyError, IndexError, AttributeError, UnicodeEncodeError):
            return self._execute_routed(args, options)
        call = calls[slot]
        if call is None:
            return self._execute_routed(args, options)
        # With a read there is one: redis-py's note to its own cache.
        if not options or (len(options) == 1 and "keys" in options):
            return call(*args)
        options.pop("keys", None)
        return call(*args, **options)

    async def execute_packed(self, data: bytes, args: tuple[Any, ...]) -> Any:
        """Send a command that was packed before to the node of its keys."""
        slot = slot_of(keys_of(args) or [], str(args[0]))
        if slot is None:
            return await self._execute_routed(args, {})
        node = self._slots[slot]
        if node is None:
            deadline = monotonic() + self.timeout
            node = await self._found(self._router.owner(slot, deadline))
        return await node.views[self.timeout].execute_packed(data, args)

    def _execute_routed(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Run what is not a command of one key, or whose node is not known."""
        if self._read_from == "primary":
            slot = slot_of_all(args)
            node = None if slot is None else self._slots[slot]
            if node is not None:
                return node.views[self.timeout].execute_command(*args, **options)
        return self._find_and_execute(args, options)

    async def _find_and_execute(
        self, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Find out where the keys are, or whom a command without keys is about."""
        command = self.command_spec(args[0])
        words = (*command.words, *args[1:])
        deadline = monotonic() + self.timeout
        keys = keys_of(words)
        if keys is None:
            keys = await self._keys_by_server(words, deadline)
        if keys is None:
            # No server knows it; one of them says so.
            node = await self._found(self._router.any_primary(deadline))
            return await node.views[self.timeout].execute_command(*args, **options)
        if not keys:
            return await self._run_keyless(command, words, args, options, deadline)
        places = by_slot(keys)
        reads = command.retry is Retry.READ
        if len(places) == 1:
            slot = next(iter(places))
            return await self._run_on(slot, deadline, args, options, reads=reads)
        if command.name == "MGET":
            return await self._merge_values(places, keys, args, options, deadline)
        if command.name in SUMMED:
            return await self._add_up(places, keys, command, args, deadline)
        raise self.count_failure(cross_slot(command.name, keys))

    async def _found(self, search: Coroutine[Any, Any, T]) -> T:
        """Return the node or nodes that were looked for; a failed search counts."""
        try:
            return await search
        except OddswireError as error:
            raise self.count_failure(error) from error.__cause__

    async def _run_on(
        self,
        slot: int,
        deadline: float,
        args: tuple[Any, ...],
        options: dict[str, Any],
        *,
        reads: bool,
    ) -> Any:
        """Run a command on the owner of a slot; a read perhaps on a replica of it."""
        node = self._slots[slot]
        if reads and self._read_from == "replica":
            node = self._router.reader(slot)
        if node is not None:
            return await node.views[self.timeout].execute_command(*args, **options)
        node = await self._found(self._router.owner(slot, deadline))
        client = node.client.bounded(max(0.0, deadline - monotonic()))
        return await client.execute_command(*args, **options)

    async def _keys_by_server(
        self, words: tuple[Any, ...], deadline: float
    ) -> list[Any] | None:
        """Ask a node which arguments are keys; None: it does not know the command."""
        node = await self._found(self._router.any_primary(deadline))
        command = self.command_spec("COMMAND GETKEYS")
        question = ("COMMAND GETKEYS", *words)
        data = self.pack(command, question)
        # Raw: a key need not be text.
        keys = await self._router.run(node, command, question, data, deadline, raw=True)
        if isinstance(keys, Exception):
            return [] if "no key arguments" in str(keys) else None
        return list(keys)

    # --- many keys

    async def _merge_values(
        self,
        places: dict[int, list[int]],
        keys: Sequence[Any],
        args: tuple[Any, ...],
        options: dict[str, Any],
        deadline: float,
    ) -> list[Any]:
        """MGET: ask for the keys of each slot; each value goes in its place."""
        options.pop("keys", None)  # redis-py's note to its own cache: all of them
        parts = await self._run_parts(
            {
                slot: (args[0], *[keys[at] for at in here])
                for slot, here in places.items()
            },
            deadline,
            options,
            reads=True,
        )
        values: list[Any] = [None] * len(keys)
        for at, part in zip(places.values(), parts, strict=True):
            for place, value in zip(at, part, strict=True):
                values[place] = value
        return values

    async def _add_up(
        self,
        places: dict[int, list[int]],
        keys: Sequence[Any],
        command: CommandSpec,
        args: tuple[Any, ...],
        deadline: float,
    ) -> int:
        """DEL and its like: one for each slot, and the sum of what they counted."""
        parts = await self._run_parts(
            {
                slot: (args[0], *[keys[at] for at in here])
                for slot, here in places.items()
            },
            deadline,
            {},
            reads=command.retry is Retry.READ,
        )
        return sum(parts)

    async def _run_parts(
        self,
        parts: dict[int, tuple[Any, ...]],
        deadline: float,
        options: dict[str, Any],
        *,
        reads: bool,
    ) -> list[Any]:
        """Return the replies of the parts of one call, each with the keys of a slot."""
        if reads and self._read_from == "primary":
            # One write to each node, in place of a task for each slot.
            batch = self.pipeline(transaction=False)
            for part in parts.values():
                batch.execute_command(*part, **options)
            return _whole(await batch.execute(raise_on_error=False), reads=reads)
        return await _together(
            [
                self._run_on(slot, deadline, part, dict(options), reads=reads)
                for slot, part in parts.items()
            ],
            reads=reads,
        )

    async def mset_nonatomic(self, mapping: Mapping[Any, Any]) -> bool:
        """Set each key to its value, slot by slot: others may see a part of them.

        Raises:
            OddswireError: Of one slot; `outcome` is ``unknown`` if another was set.
        """
        keys = list(mapping)
        deadline = monotonic() + self.timeout
        await self._run_parts(
            {
                slot: (
                    "MSET",
                    *[w for at in here for w in (keys[at], mapping[keys[at]])],
                )
                for slot, here in by_slot(keys).items()
            },
            deadline,
            {},
            reads=False,
        )
        return True

    # --- no key

    async def _run_keyless(
        self,
        command: CommandSpec,
        words: tuple[Any, ...],
        args: tuple[Any, ...],
        options: dict[str, Any],
        deadline: float,
    ) -> Any:
        if command.name == "SCAN":
            return await self._scan(args, options, deadline)
        scope = scope_of(words)
        if self._slot is not None and scope is not Scope.ALL:
            return await self._run_on(self._slot, deadline, args, options, reads=False)
        if command.route_for(args) is Route.REFUSED or scope is Scope.ANY:
            node = await self._found(self._router.any_primary(deadline))
            try:
                return await node.views[self.timeout].execute_command(*args, **options)
            except NotShared as error:
                if "pipeline()" in command.instead:
                    raise
                # What it says to use is of one server.
                raise NotShared(
                    f"{error}, where `client` is one of `await client.primaries()`"
                ) from None
        if scope is Scope.ONE:
            refusal = NotOnCluster(
                f"{' '.join(command.words).upper()} is about one node: ask it of one "
                "of `await client.primaries()`"
            )
            raise self.count_failure(refusal)
        nodes = await self._found(self._router.all_primaries(deadline))
        replies = await _together(
            [
                node.views[self.timeout].execute_command(*args, **dict(options))
                for node in nodes
            ],
            reads=command.retry is Retry.READ,
        )
        if command.name == "DBSIZE":
            return sum(replies)
        if command.name == "KEYS":
            return [key for reply in replies for key in reply]
        if isinstance(replies[0], list):  # SCRIPT EXISTS
            return [all(each) for each in zip(*replies, strict=True)]
        return replies[0]

    async def _scan(
        self, args: tuple[Any, ...], options: dict[str, Any], deadline: float
    ) -> Any:
        """Scan one primary after the other; the cursor says which, and where in it."""
        nodes = await self._found(self._router.all_primaries(deadline))
        try:
            number, cursor = divmod(int(args[1]), 1 << _CURSOR_BITS)
        except (IndexError, ValueError, TypeError):
            number, cursor = 0, args[1] if len(args) > 1 else 0
        # With fewer nodes than when it began, it is over.
        if number >= len(nodes):
            return 0, []
        client = nodes[number].views[self.timeout]
        after, keys = await client.execute_command(
            args[0], cursor, *args[2:], **options
        )
        if not int(after):
            number += 1
        more = int(after) or number < len(nodes)
        return (number << _CURSOR_BITS) + int(after) if more else 0, keys

    async def primaries(self) -> tuple[Client, ...]:
        """Return a client of each primary, for what is about one node.

        They end with this client, or when their node owns no slot any more.
        """
        deadline = monotonic() + self.timeout
        nodes = await self._found(self._router.all_primaries(deadline))
        return tuple(node.views[self.timeout] for node in nodes)

    async def server_of(self, key: bytes, deadline: float) -> Client:
        """Return the client of the node that owns the slot of a key."""
        owner = self._router.owner(key_slot(key), deadline)
        return (await self._found(owner)).client

    # --- views, batches

    def bounded(self, seconds: float) -> Self:
        """Return this client with another deadline; see `Client.bounded`."""
        view = super().bounded(seconds)
        view._calls = self._router.calls_within(seconds, self._read_from)  # noqa: SLF001 - a copy of this very object
        return view

    def reading_from(self, where: ReadFrom) -> Self:
        """Return this client with its reads sent to primaries, or to replicas.

        Commands that read and change nothing, one by one, go to a replica of their
        slot's primary. Pipelines, transactions, blocking commands and writes go to
        primaries. A replica is behind its primary: a read may miss the newest writes,
        also this program's own (docs/guides/scaling.md). Where no replica answers, the
        primary does.

        Args:
            where: ``"primary"`` or ``"replica"``; the client itself reads as
                `Settings.read_from` says.

        Raises:
            SettingsError: Neither of the two.
        """
        if where not in ("primary", "replica"):
            raise SettingsError(f"reads go to 'primary' or 'replica', not {where!r}")
        view = super().bounded(self.timeout)
        view._read_from = where  # noqa: SLF001 - a copy of this very object
        view._calls = self._router.calls_within(self.timeout, where)  # noqa: SLF001 - the same
        return view

    def at(self, key: KeyT) -> Self:
        """Return this client with what is about one node asked of that of a key.

        INFO, TIME, WAIT, and the command connection are then those of the node that
        owns the key's slot at the time of the call. Commands with keys go where they
        go.
        """
        view = super().bounded(self.timeout)
        view._slot = slot_of([key], "at")  # noqa: SLF001 - a copy of this very object
        return view

    def pipeline(
        self,
        transaction: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
        shard_hint: Any = None,
    ) -> ClusterPipeline:
        """Return a pipeline: by `execute` its commands go to their nodes together.

        As a transaction all its keys have to be in one slot.
        """
        return ClusterPipeline(self, self._router, transaction, shard_hint)

    @property
    def router(self) -> Router:
        """What knows the nodes and their slots, for library code."""
        return self._router

    # --- what is of one server

    def client(self) -> NoReturn:
        """Refuse: one connection leads to one node."""
        raise NotOnCluster(
            "client() is one connection, and that leads to one node: use it on one of "
            "`await client.primaries()`"
        )

    def monitor(self) -> Monitor:
        """Refuse: MONITOR is about one node."""
        raise NotOnCluster(
            "MONITOR is about one node: use it on one of `await client.primaries()`"
        )

    def pubsub(self, **_: Any) -> PubSub:
        """Refuse: a subscription is one connection, and that leads to one node."""
        raise NotOnCluster(
            "pubsub() is one connection, and that leads to one node: PUBLISH reaches "
            "every node, so use it on one of `await client.primaries()`"
        )

    def tracked(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a cache would need a tracking connection for each node."""
        raise NotOnCluster("the cache does not run on a cluster: give it cache_url")

    def subscriber(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: there is one for each node; see `server_of`."""
        raise NotOnCluster("a subscriber connection leads to one node")

    def command_connection(self) -> Multiplexer | None:
        """Return the command connection to the owner of the slot; of `at` alone."""
        node = self._slots[self._one_slot()]
        return None if node is None else node.client.command_connection()

    def ready_connection(self) -> Multiplexer | None:
        """Return it if it takes a call now; see `Client.ready_connection`."""
        node = self._slots[self._one_slot()]
        return None if node is None else node.client.ready_connection()

    async def open_connection(self, timeout: float) -> Multiplexer:
        """Return the live connection to the owner of the slot; of `at` alone."""
        slot, deadline = self._one_slot(), monotonic() + timeout
        node = await self._found(self._router.owner(slot, deadline))
        node = await self._found(self._router.connected(node, slot, deadline))
        return await node.client.open_connection(max(0.0, deadline - monotonic()))

    def _one_slot(self) -> int:
        if self._slot is None:
            raise NotOnCluster(
                "a cluster has a command connection for each node; `at(key)` says which"
            )
        return self._slot

    async def send_once(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: bytes do not say which node they are for."""
        raise NotOnCluster("packed bytes do not say which node they are for")

    def on_refused_write(self, error: OddswireError, sent: float) -> None:
        """Read the map: a node refused a write, perhaps as a replica."""
        del error, sent
        self._router.read_soon()

    # --- counted, and closed

    def stats(self) -> ClientStats:
        """Return what was counted over all nodes since the client was made."""
        now = monotonic()
        each = [
            summarize(node.client.connections, (), self._failures, now)
            for node in self._router.in_use
        ]
        counts = [one.connections for one in each]
        silent = [one.silent for one in counts if one.silent is not None]
        return msgspec.structs.replace(
            super().stats(),
            connections=ConnectionCounts(
                shared=sum(one.shared for one in counts),
                leased=sum(one.leased for one in counts),
                idle=sum(one.idle for one in counts),
                opening=sum(one.opening for one in counts),
                waiting=sum(one.waiting for one in counts),
                in_flight=sum(one.in_flight for one in counts),
                in_flight_bytes=sum(one.in_flight_bytes for one in counts),
                silent=max(silent, default=None),
            ),
            circuit_open=any(one.circuit_open for one in each),
            connects=sum(one.connects for one in each),
        )

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - redis-py's signature
        """Let running calls finish within the drain timeout, then close everything."""
        if self._borrowed:
            return
        try:
            await self._router.aclose()
        finally:
            await super().aclose(close_connection_pool)


def _of_node(settings: Settings, host: str, port: int) -> Settings:
    """Return the settings of one node.

    Raises:
        SettingsError: The profile sends no plaintext there.
    """
    endpoint = settings.endpoint
    assert endpoint is not None  # noqa: S101 - its seeds are where this began
    return msgspec.structs.replace(
        settings,
        url=endpoint.at(host, port).url,
        username=None,
        password=None,
        database=None,
        cache_url=None,
        read_from="primary",
    )


async def _together(
    calls: Sequence[Coroutine[Any, Any, Any]], *, reads: bool
) -> list[Any]:
    """Return the replies of the parts of one call; raises as `_whole`."""
    return _whole(await asyncio.gather(*calls, return_exceptions=True), reads=reads)


def _whole(replies: Sequence[Any], *, reads: bool) -> list[Any]:
    """Return the replies of the parts of one call.

    Raises:
        OddswireError: Of the first that failed. Where the parts write and another one
            succeeded, its outcome is ``unknown``: a part was done.
    """
    failures = [each for each in replies if isinstance(each, BaseException)]
    if not failures:
        return list(replies)
    first = failures[0]
    if isinstance(first, OddswireError) and not reads and len(failures) < len(replies):
        raise clone_error(first, Outcome.UNKNOWN) from first
    raise first
