"""Erasing a subject: in every form, by few commands, and with an honest receipt."""

from __future__ import annotations

import pytest

from oddswire import Client, EmbeddedServer, acl
from oddswire.errors import NoPermission
from oddswire.keys import RATE_SCOPES, KeySpace
from oddswire.ratelimit import (
    Concurrency,
    RateLimiter,
    Rule,
    SlidingWindow,
    TokenBucket,
)

WINDOW = Rule("window", SlidingWindow(1, 60.0), key="user")


@pytest.mark.advanced
@pytest.mark.requirement("X5")
async def test_an_erased_subject_is_forgotten_by_every_rule_that_counts_by_it(
    limiter_of, client
):
    """Counts, slots, penalties and what this process remembers; nobody else's."""
    limiter = limiter_of(
        Rule("window", SlidingWindow(1, 60.0), key="user"),
        Rule("slots", Concurrency(1, 60.0), key="user"),
        Rule("chats", SlidingWindow(1, 60.0), key="chat"),
    )
    names = ("window", "slots", "chats")
    for number in (1, 2):
        assert (await limiter.hit(*names, user=number, chat=number)).allowed
        assert not (await limiter.hit("window", user=number)).allowed
    await limiter.penalize("slots", 60.0, user=1)
    erased = await limiter.erase(user=1)
    assert (erased.part, erased.removed, erased.left) == ("ratelimit", 3, ())
    assert (await limiter.hit("window", "slots", user=1)).allowed
    assert not (await limiter.hit("chats", chat=1)).allowed
    assert not (await limiter.hit("window", user=2)).allowed
    assert (await limiter.erase(nobody=1)).removed == 0


@pytest.mark.errors
@pytest.mark.requirement("X5")
async def test_a_subject_is_erased_in_every_form_and_no_other_is(limiter_of, client):
    """What another process counted as <bot>:<user> goes too, and nobody else's goes."""
    rules = (
        Rule("window", SlidingWindow(1, 60.0), key="user"),
        Rule("bucket", TokenBucket(0.01, 1), key="user"),
        Rule("markets", SlidingWindow(1, 60.0), key="market"),
    )
    limiter, other = limiter_of(*rules), limiter_of(*rules)
    hers = (42, "7:42", "-100:42")
    others = (142, "42:7", "7:142", "7:-42")
    for user in (*hers, *others):
        assert (await other.hit("window", "bucket", user=user)).allowed
    await other.penalize("window", 60.0, user="8:42")
    assert (await other.hit("markets", market="7:42")).allowed
    # One of them this process knows and denies by itself.
    assert not (await limiter.hit("window", user="7:42")).allowed

    erased = await limiter.erase(user=42)

    assert (erased.removed, erased.left) == (7, ())
    for user in (*hers, "8:42"):
        assert (await limiter.hit("window", "bucket", user=user)).allowed
    for user in others:
        assert not (await limiter.hit("window", user=user)).allowed
    assert not (await limiter.hit("markets", market="7:42")).allowed


@pytest.mark.errors
@pytest.mark.requirement("X5")
async def test_without_scan_an_erasure_says_that_it_is_not_complete(own, prefix):
    """The known forms go; the receipt does not claim that it looked for more."""
    rule = Rule("window", SlidingWindow(1, 60.0), key="user")
    async with Client.from_url(own.url) as admin:
        await admin.execute_command(
            "ACL", "SETUSER", "part", "on", ">pw", *acl.rules([acl.RATELIMIT], prefix)
        )
        url = f"redis://part:pw@127.0.0.1:{own.port}"
        async with (
            Client.from_url(url) as client,
            RateLimiter(client, [rule], prefix=prefix, deadline=1.0) as limiter,
        ):
            for user in (42, "7:42"):
                assert (await limiter.hit("window", user=user)).source == "redis"
            erased = await limiter.erase(user=42)
            assert erased.removed == 2
            assert erased.left == (
                "subjects such as <bot>:<user>: SCAN is not allowed",
            )


@pytest.mark.performance
@pytest.mark.requirement("X5")
async def test_erasing_a_subject_costs_the_same_among_any_number(prefix):
    """After the first erasure no names of keys are read: the commands are as many."""
    counts = []
    async with (
        EmbeddedServer() as own,
        Client.from_url(own.url) as client,
        RateLimiter(client, [WINDOW], prefix=prefix, deadline=1.0) as limiter,
    ):
        await limiter.erase(user=0)
        for size in (3, 300):
            for user in range(size):
                for form in (user, f"7:{user}", f"8:{user}"):
                    assert (await limiter.hit("window", user=form)).allowed
            for user in range(size):
                await client.config_resetstat()
                erased = await limiter.erase(user=user)
                assert (erased.removed, erased.left) == (3, ())
                stats = await client.info("commandstats")
            stats.pop("cmdstat_config|resetstat")
            stats.pop("cmdstat_ping", None)  # a heartbeat comes by the clock
            assert "cmdstat_scan" not in stats
            counts.append(
                sum(each["calls"] for each in stats.values() if isinstance(each, dict))
            )
    assert counts[0] == counts[1]


@pytest.mark.errors
@pytest.mark.requirement("X5")
@pytest.mark.parametrize("lost", ["older", "deleted", "junk"])
async def test_what_was_counted_without_a_note_is_erased(
    limiter_of, client, prefix, lost
):
    """Counters of an older version, or a set that is gone, cost one more search."""
    scopes = KeySpace(prefix).key(RATE_SCOPES, "window")
    if lost != "older":
        await limiter_of(WINDOW).erase(user=42)
    for user in ("7:42", "7:43", "9:43"):
        await limiter_of(WINDOW).hit("window", user=user)
    await client.delete(scopes)
    if lost == "junk":
        await client.set(scopes, "junk")
    eraser = limiter_of(WINDOW)

    for user, removed in ((42, 1), (43, 2), (44, 0)):
        erased = await eraser.erase(user=user)
        assert (erased.removed, erased.left) == (removed, ())
    assert await client.smembers(scopes) == {b":7", b":9", b"complete"}
    assert await client.ttl(scopes) > 31 * 86_400
    # Another process counts on, in a scope that nobody used before.
    assert (await limiter_of(WINDOW).hit("window", user="10:42")).allowed
    assert (await eraser.erase(user=42)).removed == 1


@pytest.mark.errors
@pytest.mark.requirement("X5")
async def test_more_scopes_than_are_noted_are_searched_for(limiter_of, client, prefix):
    """The set stays small, and an erasure complete, under any number of scopes."""
    limiter = limiter_of(WINDOW)
    await limiter.erase(user=42)
    for scope in range(100):
        assert (await limiter.hit("window", user=f"{scope}:42")).allowed
    assert (await limiter_of(WINDOW).hit("window", user="another:42")).allowed

    erased = await limiter.erase(user=42)

    assert (erased.removed, erased.left) == (101, ())
    scopes = KeySpace(prefix).key(RATE_SCOPES, "window")
    assert await client.scard(scopes) <= 68


@pytest.mark.errors
@pytest.mark.requirement("X5")
async def test_a_scope_that_cannot_be_noted_is_not_counted_in_redis(own, prefix):
    """No counter is in Redis that an erasure would not find."""
    async with Client.from_url(own.url) as admin:
        rights = acl.rules([acl.RATELIMIT], prefix)
        await admin.execute_command(
            "ACL", "SETUSER", "older", "on", ">pw", *rights, "-sadd"
        )
        url = f"redis://older:pw@127.0.0.1:{own.port}"
        async with (
            Client.from_url(url) as client,
            RateLimiter(client, [WINDOW], prefix=prefix, deadline=1.0) as limiter,
        ):
            with pytest.raises(NoPermission):
                await limiter.hit("window", user="7:42")
            assert (await limiter.hit("window", user=42)).allowed
        assert len(await admin.keys(f"{prefix}rate-*")) == 1


@pytest.mark.advanced
@pytest.mark.requirement("X5")
async def test_a_scope_is_noted_again_every_hour(client, prefix):
    """A set that the server evicted comes back while its counters live."""
    clock = [0.0]
    scopes = KeySpace(prefix).key(RATE_SCOPES, "window")
    async with RateLimiter(
        client, [WINDOW], prefix=prefix, deadline=1.0, now=lambda: clock[0]
    ) as limiter:
        await limiter.hit("window", user="7:1")
        await client.delete(scopes)
        await limiter.hit("window", user="7:2")
        assert not await client.exists(scopes)
        clock[0] = 3_601.0
        await limiter.hit("window", user="7:3")
    assert await client.smembers(scopes) == {b":7"}
