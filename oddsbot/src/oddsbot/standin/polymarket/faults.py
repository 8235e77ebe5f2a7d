"""`Faults`: what goes wrong by switch."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

Kind = Literal["limited", "restarting", "error", "paused", "slow", "cut", "html"]

STATUS = {"limited": 429, "restarting": 425, "error": 500, "paused": 503, "html": 502}


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Something that goes wrong with HTTP, for as many requests as it says.

    Attributes:
        kind: ``limited`` (429), ``restarting`` (425), ``error`` (500), ``paused``
            (503), ``html`` (502 with a page), ``slow`` (answered after `seconds`),
            ``cut`` (half of the body, then the connection ends).
        path: The start of the path; empty: any.
        times: Requests that are left.
        seconds: Of ``slow``; of ``limited`` its Retry-After, 0 for none.
    """

    kind: Kind
    path: str = ""
    times: int = 1
    seconds: float = 0.0


_Every = Annotated[int, msgspec.Meta(ge=0)]


class Faults(msgspec.Struct, forbid_unknown_fields=True):
    """The switches. All may be changed at any time.

    Attributes:
        planned: Faults of requests; the first that fits is taken.
        no_resolved: ``market_resolved`` is never sent.
        no_first_book: Subscriptions get no books.
        frozen_assets: Nothing is sent of these tokens.
        disconnect: After so many items of the recording all connections are cut, again
            and again; so with the next four. 0: never.
        freeze: The connections that are open then say nothing any more but PONG.
        thaw: A freeze ends.
        bad_frame: A frame that is no JSON is sent.
        unknown_event: An event that nobody knows is sent.
        late: Seconds after which a row of the Data API is listed.
        twice: Each row of the Data API is listed twice.
        backwards: Rows of a page come the other way round.
        partial: Every second row of a page is missing.
        same_cursor: The next page's cursor is this page's.
        rewritten: The rows of the last minute get another time with each answer.
    """

    planned: list[Fault] = []
    no_resolved: bool = False
    no_first_book: bool = False
    frozen_assets: set[str] = set()
    disconnect: _Every = 0
    freeze: _Every = 0
    thaw: _Every = 0
    bad_frame: _Every = 0
    unknown_event: _Every = 0
    late: int = 0
    twice: bool = False
    backwards: bool = False
    partial: bool = False
    same_cursor: bool = False
    rewritten: bool = False

    def switch(self, name: str, value: object) -> None:
        """Set a switch as `parse_switch` gives it."""
        if isinstance(value, Fault):
            self.planned.append(value)
        else:
            setattr(self, name, value)

    def take(self, path: str) -> Fault | None:
        """Return the fault of this request, and count it."""
        for fault in self.planned:
            if path.startswith(fault.path):
                fault.times -= 1
                if fault.times <= 0:
                    self.planned.remove(fault)
                return fault
        return None


def parse_switch(text: str) -> tuple[str, object]:
    """Return the name and value of a switch of a command line.

    ``no_resolved``, ``late=30``, ``frozen_assets=id,id``; and faults of requests, such
    as ``limited=/v2/trades,3,10``: path, times, seconds.

    Raises:
        ValueError: There is no such switch, or it has no such value.
    """
    name, _, text = text.partition("=")
    fields = {each.name: each.type for each in msgspec.structs.fields(Faults)}
    fields.pop("planned")
    kinds = get_args(Kind)
    if name not in fields and name not in kinds:
        raise ValueError(f"{name!r} is no switch: {', '.join((*kinds, *fields))} are")
    if name == "frozen_assets":
        return name, set(filter(None, text.split(",")))
    try:
        if name in fields:
            return name, msgspec.convert(text or "true", fields[name], strict=False)
        given = zip(("path", "times", "seconds"), text.split(","), strict=False)
        fault = {"kind": name} | {each: value for each, value in given if value}
        return "planned", msgspec.convert(fault, Fault, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from None
