"""`Multiplexer`: one socket shared by all callers of an event loop.

Commands of one loop tick leave in one write; replies are matched first in, first out.
One rule keeps that safe: the queue of calls mirrors the bytes on the socket.

1. A call enters the queue together with its bytes, never without them.
2. Once the bytes are written, the call leaves the queue only when its reply was read.
3. A caller that gives up leaves a finished future in the queue. The reply is read and
   dropped, so every reply behind it still meets its own call.
4. When the connection ends, every call left in the queue fails: `NOT_SENT` if its bytes
   were never written, `UNKNOWN` if they were.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
from collections import deque
from functools import partial
from itertools import islice
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

import hiredis
import msgspec

from oddswire.connection.deadline import Alarm
from oddswire.connection.errors import (
    clone_error,
    for_waiters,
    protocol_desync,
    reply_error,
)
from oddswire.connection.flow import FlowControl, Limits
from oddswire.counters import Histogram, Window
from oddswire.errors import (
    ClosedError,
    CommandTimeout,
    ConnectionLost,
    Loading,
    MasterDown,
    Misconfigured,
    OddswireError,
    Outcome,
    ProtocolBroken,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable  # noqa: TC004 - msgspec does not ask

_INCOMPLETE = object()

# A timer that fires later than this was held up by a busy loop; the replies may be in
# the socket, unread, so no call has timed out yet.
_STALL = 0.010

# After a timeout, a connection that stays silent for longer is given up.
_SILENT_AT_LEAST = 3.0

# So many bytes are a large reply on its way. Fewer, and no reply complete, may be
# replies that the parser takes for a part of another, whose length was damaged.
_LARGE = 64 * 1024

# Calls resolved in one turn of the loop: half of those in flight, so that the server
# works at one half while the callers of the other run; neither a handful nor a crowd.
# Measured at 100 callers with uvloop: 190k/s for all at once, 260-280k/s for 32 to 50,
# 200k/s for 16; at 50 callers of a script, halves are a fifth faster than 32 and 18.
_FEWEST, _MOST = 25, 50

# The parser is fed so much at a time: it moves what is left of its buffer after each
# kilobyte it has read, which took half of its time for reads of 256 KiB.
_FED_AT_ONCE = 16 * 1024

# Joining larger writes only copies them.
_JOIN_BELOW = 1024 * 1024

# The errors of a server that answers SUBSCRIBE and refuses PING.
_REFUSES_PING_ALONE = (Loading, MasterDown, Misconfigured)


class CallLabel:
    """Names a call in its errors.

    Args:
        name: The command, or what the library does with it.

    Attributes:
        slow: Replies that took longer than `ConnectionMetrics.slow_above`.
    """

    __slots__ = ("name", "slow")

    def __init__(self, name: str) -> None:
        self.name = name
        self.slow = 0


class CallOptions(msgspec.Struct, eq=False):
    """The unusual parts of a call, see `Multiplexer.send`; most calls have none."""

    count: int
    on_reply: Callable[[Any], None] | None
    raw: bool
    until: bytes | None
    replies: list[Any]

    def ends_with(self, reply: Any) -> bool:
        """Whether this answers the PING at the end of a call that has `until`.

        A server that loads its data, cannot save, or lost its primary subscribes and
        refuses PING; a server that a script holds up refuses both. A call that went on
        waiting for the echo would take the replies of every call behind it.
        """
        if not isinstance(reply, Exception):
            return bool(reply == self.until)
        return bool(self.replies) or isinstance(reply, _REFUSES_PING_ALONE)

    def fail(self, failure: OddswireError, loop: asyncio.AbstractEventLoop) -> None:
        """Call the hook with the error of a call that ends without a reply."""
        if self.on_reply is None:
            return
        hook, self.on_reply = self.on_reply, None
        try:
            hook(failure)
        except Exception as error:  # noqa: BLE001 - the calls behind it must end too
            loop.call_exception_handler(
                {"message": f"{hook!r} raised an exception", "exception": error}
            )


# (future, time sent, deadline, bytes, label, options or None). A plain tuple and a
# plain future: a Future subclass takes the slow path of every await, a named tuple
# costs 0.3 us to make. Times are `time.monotonic`'s: uvloop's clock counts
# milliseconds.
Call: TypeAlias = (
    "tuple[asyncio.Future[Any], float, float, int, CallLabel, CallOptions | None]"
)


class ConnectionMetrics:
    """Counted over all the connections that follow one another.

    Attributes:
        latency: Seconds from a command's tick to its reply's arrival.
        answered: Calls that were answered lately.
        writes: Socket writes; commands per write show how well commands are joined.
        bytes_in: Bytes read.
        bytes_out: Bytes handed to the socket.
        pushes: RESP3 push messages.
        timeouts: Calls whose deadline passed.
        abandoned: Calls whose caller was cancelled.
        waits: Calls that waited for room.
        stalls: Seconds by which the event loop came late to a deadline.
        slow_above: Seconds after which a reply counts as slow.
    """

    __slots__ = ("abandoned", "answered", "bytes_in", "bytes_out", "latency", "pushes",
                 "slow_above", "stalls", "timeouts", "waits", "writes")  # fmt: skip

    def __init__(self, slow_above: float = math.inf) -> None:
        self.latency = Histogram()
        self.stalls = Histogram()
        self.answered = Window()
        self.writes = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.pushes = 0
        self.timeouts = 0
        self.abandoned = 0
        self.waits = 0
        self.slow_above = slow_above


class Multiplexer(asyncio.Protocol):
    """One connection, many callers of one event loop.

    Args:
        metrics: Where commands, bytes and latencies are counted.
        limits: Commands and bytes in flight above which callers wait.
        encoding: Decode replies with this; None leaves bytes.
        encoding_errors: What to do with bytes that do not decode.
        on_push: Called by the parser with each push message (RESP3). For library code:
            an exception there closes the connection.
        on_closed: Called once when the connection ended, with the reason.

    Attributes:
        flow: Whether a call may be sent now, and the queue of callers that wait.
        error: Why the connection ended; None while it lives.
        connected_at: When it was connected, by `time.monotonic`.
        last_read: When bytes last arrived.
        tick: What counts as the sending time of the newest call.
        unchecked: Replies since the last echo was sent, which proves their order.
    """

    def __init__(
        self,
        *,
        metrics: ConnectionMetrics,
        limits: Limits | None = None,
        encoding: str | None = None,
        encoding_errors: str = "strict",
        on_push: Callable[[list[Any]], None] | None = None,
        on_closed: Callable[[Multiplexer, OddswireError], None] | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.flow = FlowControl(limits or Limits())
        self.error: OddswireError | None = None
        self.connected_at = self.last_read = monotonic()
        self._metrics = metrics
        self._on_push = on_push
        self._on_closed = on_closed
        self._decodes = encoding is not None
        self._reader = hiredis.Reader(
            notEnoughData=_INCOMPLETE,
            replyError=reply_error,
            encoding=encoding,
            errors=encoding_errors,
        )
        self._unparsed: deque[bytes] = deque()
        self._transport: asyncio.Transport
        self._calls: deque[Call] = deque()
        # The bytes of the newest calls, one item per call; non-empty: a flush is due.
        self._unwritten: list[bytes] = []
        self.tick = 0.0
        # Several callers were answered in one turn: they are about to send together.
        self._crowded = False
        # `_resume` is due in the next turn: replies are here that were not looked at.
        self._resuming = False
        # Replies and pushes that were read to their end, and bytes.
        self._complete = self._bytes_in = 0
        # When a check last found more of them than the one before, and how many.
        self._progress: tuple[float, tuple[int, int], int] = (0.0, (-1, 0), 0)
        self.unchecked = 0
        self._check_above: float = math.inf
        self._check_order: Callable[[], None] | None = None
        # The future of calls that no task awaits: done from the start.
        self._unawaited: asyncio.Future[None] = self.loop.create_future()
        self._unawaited.set_result(None)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        # Done when no awaited call is left; `aclose` waits for it.
        self._drained: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "closed" if self.error else "open" if self.flow.open else "full"
        return (
            f"<Multiplexer {state}, {len(self._calls)} in flight, "
            f"{self.flow.waiting} waiting>"
        )

    # --- sending

    # All by position: 3.11 calls a function with keyword-only arguments the slow way.
    def send(
        self,
        data: bytes,
        timeout: float,
        label: CallLabel,
        raw: bool = False,  # noqa: FBT001, FBT002 - by position for speed
        count: int = 1,
        on_reply: Callable[[Any], None] | None = None,
        until: bytes | None = None,
        into: list[Any] | None = None,
    ) -> asyncio.Future[Any]:
        """Queue packed bytes; the future resolves to the reply, error replies included.

        Call it when `flow.open` is true or right after `flow.wait`, with no `await` in
        between. Pack first: packing may fail. This may not fail, or a call would stand
        in the queue without bytes.

        Args:
            data: One packed command, or `count` of them.
            timeout: Seconds until the future gets `CommandTimeout`.
            label: Names the call.
            raw: Do not decode the reply (on a connection that decodes).
            count: Above 1, the future resolves to the list of that many replies.
            on_reply: Called by the parser with the reply, before it looks at anything
                behind it and even if the caller gave up; or with the error that ended
                the call. For library code: an exception closes the connection.
            until: For commands that are answered by push messages, or by an error:
                end `data` with a PING of this text. The future then resolves to the
                list of the replies before its echo, or before its refusal.
            into: The list for these replies; what it holds when the connection ends
                came before the end.
        """
        loop = self.loop
        flow = self.flow
        size = len(data)
        unwritten = self._unwritten
        if unwritten:
            now = self.tick
            unwritten.append(data)
        else:
            self.tick = now = monotonic()
            if self._calls or self._crowded:
                unwritten.append(data)
                loop.call_soon(self._flush)
            else:
                # No other call is under way: a lone caller is spared a turn of the
                # loop.
                self._metrics.writes += 1
                self._metrics.bytes_out += size
                self._transport.write(data)
        deadline = now + timeout
        if count == 1 and on_reply is None and not raw and until is None:
            options = None
        else:
            options = CallOptions(
                count, on_reply, raw, until, [] if into is None else into
            )
        future = loop.create_future()
        self._calls.append((future, now, deadline, size, label, options))
        flow.commands += 1
        flow.bytes += size
        if flow.commands >= flow.limits.commands or flow.bytes >= flow.limits.bytes:
            flow.open = False
        if deadline < self._timer_at:
            self._set_timer(deadline, now)
        return future

    def send_unawaited(
        self, data: bytes, label: CallLabel, on_reply: Callable[[Any], None]
    ) -> None:
        """Queue a packed command whose reply only the hook takes.

        No deadline ends it, closing does not wait for it, and it makes no task. It is
        a write of its own, never within a batch: what belongs together is sent by one
        `send`.
        """
        if not self._unwritten:
            self.tick = monotonic()
            self.loop.call_soon(self._flush)
        self._unwritten.append(data)
        options = CallOptions(1, on_reply, True, None, [])  # noqa: FBT003 - as there
        # Its deadline is the tick: a silent server gets the least time of any call.
        call = (self._unawaited, self.tick, self.tick, len(data), label, options)
        self._calls.append(call)
        self.flow.commands += 1
        self.flow.bytes += len(data)

    def when_unchecked(self, replies: int, check: Callable[[], None] | None) -> None:
        """Have `check` called whenever so many replies came without an echo."""
        self._check_above = replies if check is not None else math.inf
        self._check_order = check

    def _flush(self) -> None:
        """Write the bytes of this tick in one write."""
        out = self._unwritten
        newest = map(_future_of, islice(reversed(self._calls), len(out)))
        if any(map(_is_cancelled, newest)):
            out = self._without_cancelled(out)
        self._unwritten = []
        if not out:
            return
        size = sum(map(len, out))
        self._metrics.writes += 1
        self._metrics.bytes_out += size
        if size < _JOIN_BELOW:
            self._transport.write(b"".join(out))
        else:
            self._transport.writelines(out)

    def _without_cancelled(self, out: list[bytes]) -> list[bytes]:
        """Drop the calls that were cancelled before they were written.

        Here a call leaves the queue without a reply. That is safe only because its
        bytes leave with it: both lists are cut at the same places.
        """
        newest = [self._calls.pop() for _ in out]
        kept = []
        for call, data in zip(reversed(newest), out, strict=True):
            if not call[0].cancelled():
                self._calls.append(call)
                kept.append(data)
                continue
            self.flow.commands -= 1
            self.flow.bytes -= call[3]
            if call[5] is not None:
                failure = ConnectionLost("cancelled", outcome=Outcome.NOT_SENT)
                call[5].fail(failure, self.loop)
        self.flow.update()
        self._end_drain()
        return kept

    def abandon(self) -> None:
        """Count a call whose caller was cancelled.

        A call that was not written yet is dropped by the next flush and was provably
        not sent. The reply to a call that was written is read and dropped.
        """
        self._metrics.abandoned += 1
        self._end_drain()

    # --- deadlines

    def _set_timer(self, at: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_later(at - now, self._check, at)

    def _check(self, due: float, seen: float = -1.0, until: float = 0.0) -> None:
        """Fail the calls past their deadline, unless the loop was stalled until now.

        `seen` is `last_read` when the check was last put off. The check is put off
        again only if something was read since, or the loop was stalled again and had no
        time to read. It is not put off beyond `until`.
        """
        now = monotonic()
        late = now - due
        stalled = late > _STALL
        if stalled:
            self._metrics.stalls.observe(late)
            # The replies that came meanwhile may take as long to read as the stall
            # took. A loop that is late each time spends some of that time each time.
            until = (until or now) + late
        if self._resuming or (now < until and (stalled or self.last_read != seen)):
            # The reply may lie in the socket or in the parser: read before failing.
            self._timer = self.loop.call_later(
                _STALL, self._check, now + _STALL, self.last_read, until
            )
            return
        self._timer, self._timer_at = None, math.inf
        failed, soonest = overdue(self._calls, now)
        self._metrics.timeouts += len(failed)
        for future, sent, deadline, _, label, _ in failed:
            future.set_exception(
                CommandTimeout(
                    f"{label.name}: no reply within {max(deadline - sent, 0.0):.3g} s "
                    f"({self.load()}; last bytes {now - self.last_read:.3g} s ago, "
                    f"connected {now - self.connected_at:.3g} s ago, "
                    f"the loop was {max(late, 0.0) * 1e3:.0f} ms late)"
                )
            )
        self._end_drain()
        if not self._calls:
            return
        # A call that timed out stays in the queue until its reply comes. If no byte
        # comes at all, the connection is dead and the next one may do better.
        heard = self._heard()
        silent_until = dead_at(self._calls[0], heard)
        if silent_until <= now:
            what = "nothing" if heard == self.last_read else "no whole reply"
            self.abort(
                ConnectionLost(
                    f"calls timed out and {what} arrived for {now - heard:.3g} s"
                )
            )
        else:
            self._set_timer(min(soonest, silent_until), now)

    def _heard(self) -> float:
        """Return when something came that shows that replies still come.

        Called by each check with calls, so that `last_read` is of the time before.
        """
        options = self._calls[0][5]
        complete = self._complete, 0 if options is None else len(options.replies)
        at, before, bytes_before = self._progress
        if complete != before or self._bytes_in - bytes_before >= _LARGE:
            at = self.last_read
            self._progress = at, complete, self._bytes_in
        return at

    def count_wait(self) -> None:
        """Count a call that has to wait for room."""
        self._metrics.waits += 1

    def load(self) -> str:
        """Say how much is in flight, for an error's text."""
        return f"{self.flow.commands} in flight, {self.flow.bytes:,} bytes"

    # --- receiving

    def data_received(self, data: bytes) -> None:
        """Take in the bytes that arrived and resolve the calls they answer."""
        self.last_read = monotonic()
        self._metrics.bytes_in += len(data)
        self._bytes_in += len(data)
        if len(data) <= _FED_AT_ONCE:
            self._unparsed.append(data)
        else:
            starts = range(0, len(data), _FED_AT_ONCE)
            self._unparsed.extend(
                data[start : start + _FED_AT_ONCE] for start in starts
            )
        if not self._resuming:
            self._resume()

    def _resume(self) -> None:
        """Resolve some of the calls whose replies are here, the rest next turn.

        A chunk of thousands of replies then does not hold the loop, and the callers
        resumed first have written again while the others run: the server works at the
        same time as this process.
        """
        self._resuming = False
        if self.error is not None:
            return
        before = len(self._calls)
        try:
            more = self._read(min(max((before + 1) // 2, _FEWEST), _MOST))
        except Exception as error:  # noqa: BLE001 - after any error, replies and calls are out of step
            self.abort(protocol_desync(error))
            return
        if more:
            self._resuming = True
            self.loop.call_soon(self._resume)
        if self.unchecked >= self._check_above and self._check_order is not None:
            self._check_order()
        self._crowded = before - len(self._calls) > 1
        if not self.flow.open:
            self.flow.update()
        if self._drained is not None:
            self._end_drain()

    def _read(self, limit: float) -> bool:
        """Resolve up to `limit` calls; return whether there may be more replies."""
        calls = self._calls
        flow = self.flow
        gets = self._get_decoded if self._decodes else self._reader.gets
        unparsed, on_push = self._unparsed, self._on_push
        latency = self._metrics.latency
        slow_above = self._metrics.slow_above
        now = self.last_read
        answered = together = ended = pushes = 0
        sent = 0.0
        while answered < limit:
            reply = gets()
            if reply is _INCOMPLETE:
                if not unparsed:
                    break
                self._reader.feed(unparsed.popleft())
                continue
            if type(reply) is hiredis.PushNotification:
                pushes += 1
                if on_push is not None:
                    on_push(reply)
                continue
            if not calls:
                if isinstance(reply, OddswireError):
                    raise reply  # its last word: too many clients, protected mode
                raise ProtocolBroken(f"a reply to no call: {reply!r:.80}")
            # The call stays in the queue until its reply is complete: if a hook or the
            # parser raises before that, `_end` finds the call there and fails it.
            future, sent_at, _, size, label, options = calls[0]
            if options is not None:
                if options.count > 1:
                    options.replies.append(reply)
                    if len(options.replies) < options.count:
                        continue
                    reply = options.replies
                    ended += options.count - 1
                elif options.until is not None:
                    if not options.ends_with(reply):
                        options.replies.append(reply)
                        continue
                    reply = options.replies
                if options.on_reply is not None:
                    # Taken off first: a hook that raises is not called a second time.
                    hook, options.on_reply = options.on_reply, None
                    hook(reply)
            calls.popleft()
            flow.commands -= 1
            flow.bytes -= size
            answered += 1
            # The calls of one tick were sent together and the replies of one chunk
            # arrived together: they are counted together too.
            if sent_at == sent:
                together += 1
            else:
                if together:
                    latency.observe(now - sent, together)
                sent, together = sent_at, 1
            if now - sent_at > slow_above:
                label.slow += 1
            # A future that is done belongs to a caller that was cancelled or timed out.
            if not future.done():
                future.set_result(reply)
        self.unchecked += answered + ended
        self._metrics.pushes += pushes
        self._complete += answered + pushes
        if together:
            latency.observe(now - sent, together)
            self._metrics.answered.record(now, calls=answered + ended)
        return answered >= limit

    def _get_decoded(self) -> Any:
        options = self._calls[0][5] if self._calls else None
        try:
            if options is not None and options.raw:
                return self._reader.gets(False)  # noqa: FBT003 - by position only
            return self._reader.gets()
        except UnicodeDecodeError as error:
            # hiredis has read past the reply: this call fails, the others go on.
            return error

    # --- the socket's life

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport; the code that connected sends the handshake."""
        transport.set_write_buffer_limits(high=1024 * 1024)
        self._transport = transport

    def pause_writing(self) -> None:
        """The kernel takes no more bytes: let no call in.

        Reading goes on, or both sides would wait for each other (redis-rs issue 1955).
        """
        self.flow.paused = True
        self.flow.open = False

    def resume_writing(self) -> None:
        """The kernel takes bytes again."""
        self.flow.paused = self._drained is not None or self.error is not None
        self.flow.update()

    def connection_lost(self, exc: Exception | None) -> None:
        """Deliver the replies that arrived, fail the calls that are left."""
        if self._resuming and self.error is None:
            with contextlib.suppress(Exception):  # the connection ends either way
                self._read(math.inf)
        self._end(
            ConnectionLost(f"the connection was closed{f': {exc}' if exc else ''}")
        )

    @property
    def certificate_ends(self) -> float | None:
        """When the server's certificate ends, seconds since 1970.

        None without TLS, and where the certificate is not verified: `ssl` keeps nothing
        of one that it did not check.
        """
        certificate = self._transport.get_extra_info("peercert")
        return (
            ssl.cert_time_to_seconds(certificate["notAfter"]) if certificate else None
        )

    def abort(self, error: OddswireError) -> None:
        """Close the socket now; the calls that are left fail with a copy of `error`.

        If it is `ProtocolBroken`, only the oldest call fails with it. For the others
        the connection was lost: a repeat of theirs would not break the next connection.
        """
        self._end(error)
        if hasattr(self, "_transport"):  # it may not have come to that
            self._transport.abort()

    async def aclose(self, drain: float) -> None:
        """Let no call in, wait up to `drain` seconds for the replies, close.

        Calls unanswered by then fail with `ClosedError`. A reply whose caller gave up
        is not waited for. Cancelled, it closes at once.
        """
        try:
            if self.error is None and self._is_awaited():
                if self._drained is None:  # or another task closes it as well
                    self._drained = self.loop.create_future()
                self.flow.fail(lambda: ClosedError("the client is closing"))
                handle = Alarm(self.loop, drain, partial(_settle, self._drained))
                try:
                    # Shielded: another task that closes it waits for the same future.
                    await asyncio.shield(self._drained)
                finally:
                    handle.cancel()
        finally:
            if self.error is None:
                self.abort(ClosedError("the client was closed"))

    def _is_awaited(self) -> bool:
        return not all(future.done() for future, *_ in self._calls)

    def _end_drain(self) -> None:
        if self._drained is not None and not self._is_awaited():
            _settle(self._drained)

    def _end(self, error: OddswireError) -> None:
        """Fail every call that is left, each with an error of its own."""
        if self.error is not None:
            return
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
        self.flow.fail(lambda: for_waiters(error, Outcome.NOT_SENT))
        calls, self._calls = self._calls, deque()
        # The newest calls are the unwritten ones: their bytes never left.
        written = len(calls) - len(self._unwritten)
        self._unwritten = []
        for position, call in enumerate(calls):
            outcome = Outcome.UNKNOWN if position < written else Outcome.NOT_SENT
            # The reply to the oldest call broke the connection, if a reply did.
            blamed = position == 0 and outcome is Outcome.UNKNOWN
            failure = (clone_error if blamed else for_waiters)(error, outcome)
            if call[5] is not None:
                call[5].fail(failure, self.loop)
            if not call[0].done():
                call[0].set_exception(failure)
        if self._drained is not None:
            _settle(self._drained)
        if self._on_closed is not None:
            self._on_closed(self, error)


def overdue(calls: Iterable[Call], now: float) -> tuple[list[Call], float]:
    """Return the calls past their deadline, and the next deadline of the others."""
    late = []
    soonest = math.inf
    for call in calls:
        if call[0].done():
            continue
        if call[2] > now:
            soonest = min(soonest, call[2])
        else:
            late.append(call)
    return late, soonest


def dead_at(oldest: Call, last_read: float) -> float:
    """Return when a call will have waited in silence for too long to go on."""
    _, sent, deadline, *_ = oldest
    return max(sent, last_read) + max(2 * (deadline - sent), _SILENT_AT_LEAST)


_future_of = itemgetter(0)
_is_cancelled = asyncio.Future.cancelled


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
