"""`Decision`: what became of a request, and what to tell whoever made it."""

from __future__ import annotations

from math import ceil, inf
from typing import Any, Literal

import msgspec


# Neither is followed by the garbage collector: nothing that they hold refers to them.
class Taken(msgspec.Struct, gc=False):
    """What an admitted request took; emptied by the one refund it can have.

    Attributes:
        at: When, in microseconds of the server's clock; of ours if `degraded`.
        lease: The name of its leases, for slots.
        parts: From which bucket, and how much.
    """

    at: float
    lease: str
    parts: tuple[Any, ...]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What became of a request under its rules; false if it was denied.

    The numbers are those of one rule: when denied, of the one that takes longest to
    admit it; when admitted, of the one with least remaining.

    Attributes:
        allowed: Whether to go on.
        rule: The rule the numbers are of.
        limit: Its limit.
        remaining: What it would still admit now.
        reset: Seconds until all of it is free, if nobody uses it.
        retry_after: Seconds after which the same request is admitted, if nobody else
            comes first; rounded up to a microsecond. 0 when allowed; inf when the limit
            was lowered below the cost.
        window: Seconds the limit speaks of.
        source: Who decided: ``"redis"``; ``"memory"``: a denial of Redis that still
            holds; ``"local"``: this process alone, for Redis could not be asked.
        shadow: Rules that only watch and would have denied it.
        taken: For `RateLimiter.refund`.
        waited: Seconds it waited in `RateLimiter.acquire`.
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
    taken: Taken | None = None
    waited: float = 0.0

    def __bool__(self) -> bool:
        return self.allowed

    @property
    def degraded(self) -> bool:
        """Whether Redis could not be asked, and the rules' `on_error` decided."""
        return self.source == "local"

    def slots(self) -> Decision:
        """Return the part that took slots, to be renewed and given back."""
        if self.taken is None:
            return self
        parts = tuple(part for part in self.taken.parts if part.bucket.rule.is_slots)
        taken = msgspec.structs.replace(self.taken, parts=parts)
        return msgspec.structs.replace(self, taken=taken)

    def headers(self) -> dict[str, str]:
        """Return HTTP headers; seconds are rounded up to whole ones.

         ``RateLimit-Policy`` and ``RateLimit`` are those of the IETF draft
        "RateLimit header fields for HTTP"; ``Retry-After`` (RFC 9110) is on a denial.
        """
        headers = {
            "RateLimit-Policy": (f'"{self.rule}";q={self.limit};w={ceil(self.window)}'),
            "RateLimit": f'"{self.rule}";r={self.remaining};t={ceil(self.reset)}',
        }
        if not self.allowed and self.retry_after != inf:
            headers["Retry-After"] = str(max(1, ceil(self.retry_after)))
        return headers
