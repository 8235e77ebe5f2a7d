"""`Decision`: the answer to a request, and what it shows to the caller."""

from __future__ import annotations

from math import ceil, inf
from typing import Any, Literal

import msgspec

NO_RETRY = inf
"""The `retry_after` of a request that no waiting admits."""


# The garbage collector follows neither: nothing that they hold refers back to them.
class Reservation(msgspec.Struct, gc=False):
    """What an admitted request took; `RateLimiter.refund` empties it.

    Attributes:
        at: The time of the decision: microseconds of the server's clock; if `degraded`,
            seconds of the limiter's clock.
        lease: The name of its leases, for slots.
        demands: The subjects that it counts for, with the cost of each.
    """

    at: float
    lease: str
    demands: tuple[Any, ...]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer to a request; false if the request was denied.

    The numbers are of one rule. On a denial it is the rule with the longest wait,
    otherwise the rule with the least remaining.

    Attributes:
        allowed: Whether the caller goes on.
        rule: The name of the rule that the numbers are of.
        limit: Its limit.
        remaining: What it still admits now.
        reset: Seconds until the limit is unused, if there is no other request.
        retry_after: Seconds after which the same request is admitted, if no other comes
            first; rounded up to a microsecond. 0 when allowed; infinity when the limit
            was lowered below the cost.
        window: Seconds of the rule's window.
        source: ``"redis"``: Redis decided. ``"memory"``: an earlier denial of Redis
            still holds. ``"local"``: this process decided alone, because Redis is down.
        shadow: Names of the shadow rules that would have denied it.
        reservation: What it took, for `RateLimiter.refund`.
        waited: Seconds that it waited in `RateLimiter.acquire`.
    """

    allowed: bool
    rule: str
    limit: int
    remaining: int
    reset: float
    retry_after: float
    window: float
    source: Literal["redis", "memory", "local"]
    shadow: tuple[str, ...] = ()
    reservation: Reservation | None = None
    waited: float = 0.0

    def __bool__(self) -> bool:
        return self.allowed

    @property
    def degraded(self) -> bool:
        """Whether the rules' `on_error` decided, because Redis is down."""
        return self.source == "local"

    def slots(self) -> Decision:
        """Return the part that took slots, to renew and release it."""
        took = self.reservation
        if took is None:
            return self
        slots = tuple(each for each in took.demands if each.state.rule.is_slots)
        part = Reservation(took.at, took.lease, slots)
        return msgspec.structs.replace(self, reservation=part)

    def headers(self) -> dict[str, str]:
        """Return HTTP headers, with seconds rounded up to whole ones.

        ``RateLimit-Policy`` and ``RateLimit`` are those of the IETF draft "RateLimit
        header fields for HTTP". A denial has ``Retry-After`` (RFC 9110) as well.
        """
        headers = {
            "RateLimit-Policy": f'"{self.rule}";q={self.limit};w={ceil(self.window)}',
            "RateLimit": f'"{self.rule}";r={self.remaining};t={ceil(self.reset)}',
        }
        if not self.allowed and self.retry_after != NO_RETRY:
            headers["Retry-After"] = str(max(1, ceil(self.retry_after)))
        return headers
