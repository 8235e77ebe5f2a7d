"""`Multiplexer`: one socket shared by all callers of an event loop.

Commands of one loop tick leave in one write; replies are matched first in, first out.
What keeps that safe is that the queue of calls always mirrors the bytes on the wire: a
call enters it together with its bytes, and once those are written it only leaves when
its reply was read. A caller that gives up leaves a finished future behind, and the
reply is read and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from functools import partial
from itertools import islice
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Any

import hiredis

from oddswire.connection.calls import Call, Label, Plan, dead_at, overdue
from oddswire.connection.deadline import Alarm
from oddswire.connection.failures import copy_of, for_others, out_of_step
from oddswire.connection.gate import Caps, Gate
from oddswire.connection.reply_errors import reply_error
from oddswire.errors import (
    ClosedError,
    CommandTimeout,
    ConnectionLost,
    OddswireError,
    Outcome,
    ProtocolBroken,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.connection.traffic import Traffic

_INCOMPLETE = object()

# A timer that fires later than this was held up by a busy loop; the replies may be in
# the socket, unread, so nobody has timed out yet.
_STALL = 0.010

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


class Multiplexer(asyncio.Protocol):
    """One wire, many callers of one event loop.

    Args:
        traffic: Where commands, bytes and latencies are counted.
        caps: Commands and bytes in flight above which callers wait.
        encoding: Decode replies with this; None leaves bytes.
        encoding_errors: What to do with bytes that do not decode.
        on_push: Called by the parser with each push message (RESP3). For library code:
            an exception there closes the wire.
        on_closed: Called once when the wire ended, with the reason.

    Attributes:
        gate: Whether a call may be sent now, and the queue of those who wait.
        error: Why the wire ended; None while it lives.
        connected_at: When it was connected, by `time.monotonic`.
        last_read: When bytes last arrived.
        tick: What counts as the sending time of the newest call.
        unchecked: Replies since the last echo was sent, which proves their order.
    """

    def __init__(
        self,
        *,
        traffic: Traffic,
        caps: Caps | None = None,
        encoding: str | None = None,
        encoding_errors: str = "strict",
        on_push: Callable[[list[Any]], None] | None = None,
        on_closed: Callable[[Multiplexer, OddswireError], None] | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.gate = Gate(caps or Caps())
        self.error: OddswireError | None = None
        self.connected_at = self.last_read = monotonic()
        self._traffic = traffic
        self._on_push = on_push
        self._on_closed = on_closed
        self._decodes = encoding is not None
        self._reader = hiredis.Reader(
            notEnoughData=_INCOMPLETE,
            replyError=reply_error,
            encoding=encoding,
            errors=encoding_errors,
        )
        self._unfed: deque[bytes] = deque()
        self._transport: asyncio.Transport
        self._calls: deque[Call] = deque()
        # The bytes of the newest calls, one item per call; non-empty: a flush is due.
        self._unwritten: list[bytes] = []
        self.tick = 0.0
        self._crowded = False
        self._resuming = False
        self.unchecked = 0
        self._check_above: float = math.inf
        self._check_order: Callable[[], None] | None = None
        self._nobody: asyncio.Future[None] = self.loop.create_future()
        self._nobody.set_result(None)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._drained: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "closed" if self.error else "open" if self.gate.open else "full"
        return (
            f"<Multiplexer {state}, {len(self._calls)} in flight, "
            f"{self.gate.waiting} waiting>"
        )

    # --- sending

    def send(
        self,
        data: bytes,
        timeout: float,
        label: Label,
        *,
        count: int = 1,
        raw: bool = False,
        on_reply: Callable[[Any], None] | None = None,
        until: bytes | None = None,
        into: list[Any] | None = None,
    ) -> asyncio.Future[Any]:
        """Queue packed bytes; the future resolves to the reply, error replies included.

        Call it when `gate.open` is true or right after `gate.wait`, with nothing
        awaited in between. Pack first: packing may fail and this may not, so that a
        call never stands in the queue without bytes.

        Args:
            data: One packed command, or `count` of them.
            timeout: Seconds until the future gets `CommandTimeout`.
            label: What is being called.
            count: Above 1, the future resolves to the list of that many replies.
            raw: Do not decode the reply (on a wire that decodes).
            on_reply: Called by the parser with the reply, before anything behind it on
                the wire is looked at and even if the caller gave up; or with the error
                that ended the call. For library code: an exception closes the wire.
            until: For commands that are answered by push messages, or by an error:
                end `data` with a PING of this text. The future then resolves to the
                list of the replies before its echo, or before its refusal.
            into: The list for these replies; what it holds when the wire ends came
                before the end.
        """
        loop = self.loop
        gate = self.gate
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
                # Nobody else is about: a lone caller is spared a turn of the loop.
                self._traffic.writes += 1
                self._traffic.bytes_out += size
                self._transport.write(data)
        deadline = now + timeout
        if count == 1 and on_reply is None and not raw and until is None:
            plan = None
        else:
            plan = Plan(count, on_reply, raw, until, into)
        future = loop.create_future()
        self._calls.append((future, now, deadline, size, label, plan))
        gate.commands += 1
        gate.bytes += size
        if gate.commands >= gate.caps.commands or gate.bytes >= gate.caps.bytes:
            gate.open = False
        if deadline < self._timer_at:
            self._set_timer(deadline, now)
        return future

    def send_unawaited(
        self, data: bytes, label: Label, on_reply: Callable[[Any], None]
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
        plan = Plan(1, on_reply, True, None)  # noqa: FBT003 - by position for speed
        # As for its silence: as much as any call is granted at least.
        self._calls.append((self._nobody, self.tick, self.tick, len(data), label, plan))
        self.gate.commands += 1
        self.gate.bytes += len(data)

    def when_unchecked(self, replies: int, check: Callable[[], None] | None) -> None:
        """Have `check` called whenever so many replies came without an echo."""
        self._check_above = replies if check is not None else math.inf
        self._check_order = check

    def _flush(self) -> None:
        out = self._unwritten
        newest = map(_future_of, islice(reversed(self._calls), len(out)))
        if any(map(_is_cancelled, newest)):
            out = self._without_cancelled(out)
        self._unwritten = []
        if not out:
            return
        size = sum(map(len, out))
        self._traffic.writes += 1
        self._traffic.bytes_out += size
        if size < _JOIN_BELOW:
            self._transport.write(b"".join(out))
        else:
            self._transport.writelines(out)

    def _without_cancelled(self, out: list[bytes]) -> list[bytes]:
        """Drop calls that were cancelled before they were written."""
        newest = [self._calls.pop() for _ in out]
        kept = []
        for call, data in zip(reversed(newest), out, strict=True):
            if not call[0].cancelled():
                self._calls.append(call)
                kept.append(data)
                continue
            self.gate.commands -= 1
            self.gate.bytes -= call[3]
            if call[5] is not None:
                failure = ConnectionLost("cancelled", outcome=Outcome.NOT_SENT)
                call[5].tell(failure, self.loop)
        self.gate.update()
        self._end_drain()
        return kept

    def give_up(self) -> None:
        """A caller was cancelled: count it.

        A call that was not written yet is dropped when the others are written,
        provably not sent. Of one that was, the reply will be read and dropped.
        """
        self._traffic.abandoned += 1
        self._end_drain()

    # --- deadlines

    def _set_timer(self, at: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_later(at - now, self._check, at)

    def _check(self, due: float, seen: float = -1.0, until: float = 0.0) -> None:
        """Fail the calls past their deadline, unless the loop was stalled until now.

        `seen` is `last_read` when judging was last put off: it may be again only if
        something was read since, and not beyond `until`.
        """
        now = monotonic()
        late = now - due
        if late > _STALL:
            self._traffic.stalls.observe(late)
            # What came meanwhile may take some time to read, and no longer than that.
            # A loop that is late each time spends some of it each time.
            until = (until or now) + late
        if self._resuming or (now < until and self.last_read != seen):
            # The loop did not run for a while, or there are replies that were not
            # looked at. Let it read before judging.
            self._timer = self.loop.call_later(
                _STALL, self._check, now + _STALL, self.last_read, until
            )
            return
        self._timer, self._timer_at = None, math.inf
        failed, soonest = overdue(self._calls, now)
        self._traffic.timeouts += len(failed)
        for future, sent, deadline, _, label, _ in failed:
            future.set_exception(
                CommandTimeout(
                    f"{label.name}: no reply within {deadline - sent:.3g} s "
                    f"({self.load()}; last bytes {now - self.last_read:.3g} s ago, "
                    f"connected {now - self.connected_at:.3g} s ago, "
                    f"the loop was {max(late, 0.0) * 1e3:.0f} ms late)"
                )
            )
        self._end_drain()
        if not self._calls:
            return
        silent_until = dead_at(self._calls[0], self.last_read)
        if silent_until <= now:
            self.abort(
                ConnectionLost(
                    f"calls timed out and nothing arrived for "
                    f"{now - self.last_read:.3g} s"
                )
            )
        else:
            self._set_timer(min(soonest, silent_until), now)

    def count_wait(self) -> None:
        """Count a call that has to wait for room."""
        self._traffic.waits += 1

    def load(self) -> str:
        """Say how much is in flight, for an error's text."""
        return f"{self.gate.commands} in flight, {self.gate.bytes:,} bytes"

    # --- receiving

    def data_received(self, data: bytes) -> None:
        """Take in what arrived and resolve the calls it answers."""
        self.last_read = monotonic()
        self._traffic.bytes_in += len(data)
        if len(data) <= _FED_AT_ONCE:
            self._unfed.append(data)
        else:
            starts = range(0, len(data), _FED_AT_ONCE)
            self._unfed.extend(data[start : start + _FED_AT_ONCE] for start in starts)
        if not self._resuming:
            self._resume()

    def _resume(self) -> None:
        """Resolve some of the calls whose replies are here, the rest next turn.

        So a chunk of thousands of replies does not hold the loop, and the callers
        resumed first have written again while the others run: the server works at the
        same time as this process.
        """
        self._resuming = False
        if self.error is not None:
            return
        before = len(self._calls)
        try:
            more = self._read(min(max((before + 1) // 2, _FEWEST), _MOST))
        except Exception as error:  # noqa: BLE001 - whatever it is, we are out of step
            self.abort(out_of_step(error))
            return
        if more:
            self._resuming = True
            self.loop.call_soon(self._resume)
        if self.unchecked >= self._check_above and self._check_order is not None:
            self._check_order()
        # Several callers were answered at once: what they send next is worth joining.
        self._crowded = before - len(self._calls) > 1
        if not self.gate.open:
            self.gate.update()
        if self._drained is not None:
            self._end_drain()

    def _read(self, limit: float) -> bool:
        """Resolve up to `limit` calls; return whether there may be more replies."""
        calls = self._calls
        gate = self.gate
        gets = self._get_decoded if self._decodes else self._reader.gets
        unfed, on_push = self._unfed, self._on_push
        latency = self._traffic.latency
        slow_above = self._traffic.slow_above
        now = self.last_read
        answered = together = ended = pushes = 0
        sent = 0.0
        while answered < limit:
            reply = gets()
            if reply is _INCOMPLETE:
                if not unfed:
                    break
                self._reader.feed(unfed.popleft())
                continue
            if type(reply) is hiredis.PushNotification:
                pushes += 1
                if on_push is not None:
                    on_push(reply)
                continue
            if not calls:
                if isinstance(reply, OddswireError):
                    raise reply  # its last word: too many clients, protected mode
                raise ProtocolBroken(f"a reply that nobody asked for: {reply!r:.80}")
            future, sent_at, _, size, label, plan = calls[0]
            if plan is not None:
                if plan.count > 1:
                    plan.replies.append(reply)
                    if len(plan.replies) < plan.count:
                        continue
                    reply = plan.replies
                    ended += plan.count - 1
                elif plan.until is not None:
                    if not plan.ends_with(reply):
                        plan.replies.append(reply)
                        continue
                    reply = plan.replies
                if plan.on_reply is not None:
                    hook, plan.on_reply = plan.on_reply, None  # once, if it raises too
                    hook(reply)
            calls.popleft()
            gate.commands -= 1
            gate.bytes -= size
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
            if not future.done():
                future.set_result(reply)
        self.unchecked += answered + ended
        self._traffic.pushes += pushes
        if together:
            latency.observe(now - sent, together)
            self._traffic.answered.record(now, calls=answered + ended)
        return answered >= limit

    def _get_decoded(self) -> Any:
        plan = self._calls[0][5] if self._calls else None
        try:
            if plan is not None and plan.raw:
                return self._reader.gets(False)  # noqa: FBT003 - by position only
            return self._reader.gets()
        except UnicodeDecodeError as error:
            # hiredis has read past the reply: this call fails, the others go on.
            return error

    # --- the socket's life

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport; the handshake is sent by who connected."""
        transport.set_write_buffer_limits(high=1024 * 1024)
        self._transport = transport

    def pause_writing(self) -> None:
        """The kernel takes no more bytes: let nobody in.

        Reading goes on, or both sides would wait for each other (redis-rs issue 1955).
        """
        self.gate.shut = True
        self.gate.open = False

    def resume_writing(self) -> None:
        """The kernel takes bytes again."""
        self.gate.shut = self._drained is not None or self.error is not None
        self.gate.update()

    def connection_lost(self, exc: Exception | None) -> None:
        """Deliver the replies that arrived, fail the calls that are left."""
        if self._resuming and self.error is None:
            with contextlib.suppress(Exception):  # the wire ends either way
                self._read(math.inf)
        self._end(
            ConnectionLost(f"the connection was closed{f': {exc}' if exc else ''}")
        )

    def abort(self, error: OddswireError) -> None:
        """Close the socket now; the calls that are left fail with a copy of `error`.

        If it is `ProtocolBroken`, only the oldest call does, for the others the
        connection was lost: they may be repeated, it would break the next wire too.
        """
        self._end(error)
        self._transport.abort()

    async def aclose(self, drain: float) -> None:
        """Let nobody in, wait up to `drain` seconds for the replies, close.

        Calls unanswered by then fail with `ClosedError`. Replies that nobody waits for
        any more are not waited for here either. Cancelled, it closes at once.
        """
        try:
            if self.error is None and self._is_awaited():
                if self._drained is None:  # or somebody else is closing it as well
                    self._drained = self.loop.create_future()
                self.gate.fail(lambda: ClosedError("the client is closing"))
                handle = Alarm(self.loop, drain, partial(_settle, self._drained))
                try:
                    # Shielded: whoever else waits for the same future goes on waiting.
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
        if self.error is not None:
            return
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
        self.gate.fail(lambda: for_others(error, Outcome.NOT_SENT))
        calls, self._calls = self._calls, deque()
        written = len(calls) - len(self._unwritten)
        self._unwritten = []
        for position, call in enumerate(calls):
            outcome = Outcome.UNKNOWN if position < written else Outcome.NOT_SENT
            # The oldest call on the wire is the one whose reply broke it.
            blamed = position == 0 and outcome is Outcome.UNKNOWN
            failure = (copy_of if blamed else for_others)(error, outcome)
            if call[5] is not None:
                call[5].tell(failure, self.loop)
            if not call[0].done():
                call[0].set_exception(failure)
        if self._drained is not None:
            _settle(self._drained)
        if self._on_closed is not None:
            self._on_closed(self, error)


_future_of = itemgetter(0)
_is_cancelled = asyncio.Future.cancelled


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
