"""Judging is a pure function of what was seen: any INFO, any numbers."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire import Client
from oddswire.health import Bound, Check, Health, Report, Status, Thresholds
from oddswire.health._reading import Reading
from oddswire.health._server import server_checks
from oddswire.health.report import Verdict, worst
from oddswire.testing import LoopLag, Resources

pytestmark = pytest.mark.requirement("C9")

FIELDS = [
    *("server_name", "valkey_version", "redis_version", "uptime_in_seconds"),
    *("loading", "async_loading", "role", "master_link_status", "master_host"),
    *("master_port", "connected_slaves", "slave0", "slave1", "used_memory"),
    *("maxmemory", "maxmemory_policy", "total_system_memory", "used_memory_peak"),
    *("mem_fragmentation_ratio", "evicted_keys", "rdb_last_bgsave_status"),
    *("aof_last_write_status", "aof_last_bgrewrite_status", "aof_enabled"),
    *("rdb_changes_since_last_save", "connected_clients", "maxclients"),
    *("rejected_connections", "db0", "db1"),
]
# What a server says, and what it might one day say instead.
PLAUSIBLE = st.fixed_dictionaries(
    {
        "uptime_in_seconds": st.integers(0, 2**40),
        "role": st.sampled_from(["master", "slave"]),
        "connected_slaves": st.integers(0, 2),
        "used_memory": st.integers(0, 2**50),
        "maxmemory": st.integers(0, 2**50),
        "maxmemory_policy": st.sampled_from(["noeviction", "allkeys-lru"]),
        "evicted_keys": st.integers(0, 2**50),
        "rdb_last_bgsave_status": st.sampled_from(["ok", "err"]),
        "connected_clients": st.integers(0, 20_000),
        "maxclients": st.integers(0, 20_000),
    }
)
VALUES = st.one_of(
    st.integers(0, 2**63),
    st.floats(),
    st.sampled_from(["", "ok", "err", "master", "slave", "up", "down", "noeviction"]),
    st.text(max_size=5),
    st.dictionaries(st.sampled_from(["lag", "state", "keys", "expires"]),
                    st.one_of(st.integers(0, 100), st.just("online"))),
)  # fmt: skip
STATUSES = st.lists(st.sampled_from(Status), max_size=6)


@pytest.fixture(scope="module")
def statistics():
    """What a client that was never used counted."""
    return Client.from_url("redis://localhost").stats()


@pytest.mark.errors
@given(
    plausible=PLAUSIBLE,
    odd=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
    gone=st.sets(st.sampled_from(FIELDS), max_size=3),
    durable=st.booleans(),
)
def test_any_info_is_judged(statistics, plausible, odd, gone, durable):
    """Whatever fields a server has or lacks, each check is there and none raises."""
    info = {name: v for name, v in (plausible | odd).items() if name not in gone}
    reading = Reading(stats=statistics, info=info)
    checks = server_checks(reading, Thresholds(), durable=durable)

    assert [check.name for check in checks] == [
        "server",
        "role",
        "replication",
        "memory",
        "eviction",
        "persistence",
        "connections",
        "keys",
    ]
    for check in checks:
        assert check.seen
        assert check.why
        # Who is told of a fault is told what to do; and what is well needs nothing.
        if check.status in (Status.WARN, Status.FAIL):
            assert check.fix
        if check.status is Status.PASS:
            assert not check.fix
        msgspec.json.encode(check)


@pytest.mark.errors
@pytest.mark.parametrize("field", ["used_memory", "role", "maxclients", "evicted_keys"])
async def test_a_field_that_is_missing_is_unknown(own, client, statistics, field):
    """A server that does not tell a number is not taken for one where it is 0."""
    info = await client.info()
    del info[field]
    reading = Reading(stats=statistics, info=info)
    checks = server_checks(reading, Thresholds(), durable=True)

    unknown = [check for check in checks if check.status is Status.UNKNOWN]
    assert unknown
    assert all(f"no {field}" in check.seen for check in unknown)


@pytest.mark.basic
@pytest.mark.parametrize(
    ("fields", "durable", "status"),
    [
        ({"aof_last_write_status": "err"}, True, "fail"),
        ({"aof_last_write_status": "err"}, False, "warn"),
        ({"aof_last_bgrewrite_status": "err"}, True, "warn"),
        ({}, True, "pass"),
    ],
)
async def test_the_append_only_file_is_judged(
    client, statistics, fields, durable, status
):
    """A failed append refuses writes as a failed snapshot does; a rewrite can wait."""
    info = await client.info() | fields
    reading = Reading(stats=statistics, info=info)
    checks = server_checks(reading, Thresholds(), durable=durable)
    found = {check.name: check.status for check in checks}
    assert found["persistence"] == status


@pytest.mark.basic
@given(statuses=STATUSES)
def test_the_worst_check_decides(statuses):
    """One failure fails the report; what is unknown is never a pass."""
    checks = tuple(
        Check(name=str(n), status=status, seen="", why="")
        for n, status in enumerate(statuses)
    )
    status = worst(checks)
    assert status is not Status.UNKNOWN
    assert (status is Status.FAIL) == (Status.FAIL in statuses)
    assert (status is Status.PASS) == (set(statuses) <= {Status.PASS})


@pytest.mark.basic
@pytest.mark.parametrize("status", Status)
def test_what_passes_needs_no_fix(status):
    """A fix is told with what does not pass, and never with what does."""
    verdict = Verdict(status=status, seen="s", fix="type this", values={"a": 1})
    check = Check.of("name", "why", verdict)
    assert (check.name, check.why, check.seen) == ("name", "why", "s")
    assert bool(check.fix) == (status is not Status.PASS)
    assert check.values == {"a": 1}


@pytest.mark.basic
@given(warn=st.floats(0, 1e9), more=st.floats(0, 1e9), value=st.floats(0, 1e10))
def test_a_bound_orders_its_levels(warn, more, value):
    """A larger number is never better."""
    bound = Bound(warn, warn + more)
    order = [Status.PASS, Status.WARN, Status.FAIL]
    assert order.index(bound.judge(value)) <= order.index(bound.judge(value * 2))
    assert bound.judge(warn + more) is Status.FAIL


@pytest.mark.errors
@pytest.mark.parametrize("levels", [(2.0, 1.0), (-1.0,), (float("nan"),)])
def test_a_bound_that_is_none_is_refused(levels):
    """Levels in the wrong order would never warn."""
    with pytest.raises(ValueError, match="0 <= warn <= fail"):
        Bound(*levels)


@pytest.mark.errors
def test_a_name_that_is_no_check_is_a_key_error():
    """A report answers for the checks that it has."""
    with pytest.raises(KeyError, match="memmory"):
        _ = Report(status=Status.PASS, checks=(), took=0.0)["memmory"]


@pytest.mark.advanced
async def test_cancelled_at_any_moment_it_leaves_nothing(client):
    """Cancelled after any number of turns of the loop, it leaves nothing running."""
    health = Health(client)
    await health.check()
    before = Resources.now()
    for turns in range(25):
        task = asyncio.get_running_loop().create_task(health.check(), name="check")
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert (await health.check())["reachable"].status == "pass"
    assert Resources.now().leaked(before) == []


@pytest.mark.advanced
async def test_a_block_in_the_last_turn_is_seen():
    """The loop is late also when the block ends before its timer had a turn."""
    with LoopLag() as lag:
        time.sleep(0.05)  # noqa: ASYNC251 - it is the fault
    assert lag.worst >= 0.03


@pytest.mark.advanced
async def test_looking_often_makes_failures_no_rarer(client):
    """A hundred checks a minute leave the rate of failed calls what it is."""
    await client.set("k", "v")
    health = Health(client)
    for _ in range(50):
        await health.check()
    await asyncio.gather(
        *(client.lpush("k", 1) for _ in range(20)), return_exceptions=True
    )
    check = (await health.check())["calls"]
    assert check.values["failure_rate"] > 0.8
    assert check.status == "fail"


@pytest.mark.performance
async def test_checks_at_the_same_time_leave_the_calls_alone(client):
    """Fifty checks at once count as no call of the application, and all agree."""
    await client.set("k", "v")
    before = client.stats()
    reports = await asyncio.gather(*(Health(client).check() for _ in range(50)))
    after = client.stats()

    assert {report["reachable"].status for report in reports} == {"pass"}
    assert after.calls == before.calls
    assert after.failures == before.failures
    assert after.connects == 1
