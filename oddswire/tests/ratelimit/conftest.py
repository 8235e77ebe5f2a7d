"""What the tests of rate limits share: the script under a clock of the test's."""

from __future__ import annotations

import re

import pytest
import redis

from oddswire.ratelimit import RateLimiter
from oddswire.ratelimit._state import PACKED
from oddswire.scripts import load

TIME = "redis.call('TIME')"
_PX = re.compile(r"'PX', math\.ceil\(.+?\)( \+ 1)?\)")


class Scripts:
    """The scripts, at a time that the test gives, in microseconds.

    They are those of the library but for two expressions: the clock is read from a key,
    and keys outlive the test.
    """

    def __init__(self, server, prefix):
        self.redis = redis.Redis.from_url(server.url)
        self.clock = prefix + "clock"
        self.key = prefix + "{rl}:rule"
        self._scripts = {}
        for name in ("hit", "refund", "penalize", "renew"):
            source = load(f"ratelimit_{name}").source
            assert source.count(TIME) == 1
            source = source.replace(TIME, f"{{0, redis.call('GET', '{self.clock}')}}")
            # Keys end by the server's own clock, which is not the test's.
            source = re.sub(
                r"'PX', math.ceil\(.+?\)( \+ 1)?\)", "'PX', 3600000)", source
            )
            self._scripts[name] = self.redis.register_script(source)

    def keys(self, rule):
        """Return the three keys of a rule."""
        return [f"{self.key}:{rule}:{part}" for part in ("state", "block", "change")]

    def run(self, name, at, keys, args):
        """Run a script at a time."""
        pipe = self.redis.pipeline(transaction=False)
        pipe.set(self.clock, at)
        self._scripts[name](keys=keys, args=args, client=pipe)
        return pipe.execute()[-1]

    def hit(self, at, *rules, mode="take", lease="lease"):
        """Ask for rules: (name, limit, cost) or (name, limit, cost, hold, shadow)."""
        keys, packed = self._rules(rules)
        slots = any(limit.kind == b"s" for _, limit, *_ in rules)
        # As the limiter does: the usual request says no more.
        more = [mode, lease] if slots or mode != "take" else []
        watches = [len(rule) == 5 and rule[4] for rule in rules]
        reply = self.run("hit", at, keys, [packed, *more])
        if len(reply) == 2:
            # Only the count of the present sub-window grew.
            limit = rules[0][1]
            reset = limit.width * 21 - reply[0] % limit.width
            reply = [reply[0], limit.most, reply[1], reset, 0]
        return Answer(reply, watches)

    def refund(self, at, taken_at, *rules, lease="lease"):
        """Give back rules: (name, limit, cost)."""
        keys, packed = self._rules(rules)
        return self.run("refund", at, keys, [packed, taken_at, lease])

    def _rules(self, rules):
        keys, packed = [], b""
        for name, limit, cost, *more in rules:
            keys += self.keys(name)
            packed += PACKED.pack(
                limit.kind, limit.most, limit.width, cost, *(more or (0, False))
            )
        return keys, packed

    def forget(self):
        """Delete everything of this test."""
        keys = self.redis.keys(self.key + "*")
        if keys:
            self.redis.delete(*keys)


class Answer:
    """A reply of the script; retry and reset are those of the worst rule."""

    def __init__(self, reply, watches):
        self.now = reply[0]
        # Limit, what remains, microseconds until unused, until a retry.
        self.rules = [tuple(reply[at : at + 4]) for at in range(1, len(reply), 4)]
        denied = [rule[3] != 0 for rule in self.rules]
        self.allowed = not any(
            no and not only for no, only in zip(denied, watches, strict=True)
        )
        self.remaining = min(rule[1] for rule in self.rules)
        self.reset = max(rule[2] for rule in self.rules)
        self.retry = max(rule[3] for rule in self.rules)


@pytest.fixture
def scripts(server, prefix):
    """The scripts at a time of the test's choice."""
    scripts = Scripts(server, prefix)
    yield scripts
    scripts.redis.close()


@pytest.fixture
async def limiter_of(client, prefix):
    """`limiter_of(*rules, **options)`: a limiter on the shared server."""
    limiters = []

    def make(*rules, **options):
        options.setdefault("deadline", 2.0)  # seven work on this machine at once
        limiter = RateLimiter(client, rules, prefix=prefix, **options)
        limiters.append(limiter)
        return limiter

    yield make
    for limiter in limiters:
        await limiter.aclose()
