"""Every state of every check, produced on a real server."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

import oddswire
from oddswire import Client, EmbeddedServer
from oddswire.errors import SettingsError
from oddswire.health import Bound, Health, Status, Thresholds
from oddswire.testing import FaultProxy, LoopLag, frozen
from support import eventually

pytestmark = pytest.mark.requirement("C9")

NAMES = [
    "reachable",
    "circuit",
    "heartbeat",
    "latency",
    "loop",
    "calls",
    "server",
    "role",
    "replication",
    "memory",
    "eviction",
    "persistence",
    "connections",
    "keys",
]
# A machine whose other core is busy is no reason for a warning here.
PATIENT = Thresholds(latency=Bound(5.0), loop_lag=Bound(5.0))


def patient(client, **options):
    """Return a Health that does not mind a busy machine."""
    return Health(client, thresholds=PATIENT, **options)


def ill(report):
    """Return the status of each check that does not pass, by name."""
    return {c.name: str(c.status) for c in report.checks if c.status is not Status.PASS}


def says_what_to_do(check):
    """Tell whether somebody who reads the check knows what to type."""
    return bool(check.seen and check.why and check.fix)


# --- pass


@pytest.mark.basic
async def test_a_fresh_server_passes(client):
    """Where nothing is wrong every check passes, in the order that is documented."""
    report = await patient(client).check()

    assert ill(report) == {}
    assert report.status == "pass"
    assert [check.name for check in report.checks] == NAMES
    assert all(check.why and check.seen for check in report.checks)


@pytest.mark.integration
@pytest.mark.requirement("C10")
async def test_numbers_are_those_of_the_server(client):
    """Memory, keys, uptime, version, role and evictions are what INFO says."""
    await client.mset({f"k{n}": "v" * 100 for n in range(50)})
    await client.set("short", 1, ex=100)
    report = await patient(client).check()
    info = await client.info()

    # What the question itself costs moves it a little.
    assert report["memory"].values["used"] == pytest.approx(info["used_memory"], 0.05)
    assert report["memory"].values["limit"] == info["maxmemory"]
    assert report["keys"].values == {"keys": 51, "expiring": 1}
    server = report["server"].values
    assert server["version"] == info.get("valkey_version", info["redis_version"])
    assert 0 <= info["uptime_in_seconds"] - server["uptime"] <= 2
    assert report["role"].values == {"role": "primary"}
    assert report["eviction"].values["evicted"] == info["evicted_keys"]
    assert report["connections"].values["connected"] == info["connected_clients"]
    assert report["heartbeat"].values["seconds"] < 5
    assert 0 < report["latency"].values["median"] < 1


@pytest.mark.integration
async def test_wire_has_it(own):
    """`wire.health` is the health of the wire's client, first use or not."""
    async with oddswire.connect(url=own.url) as wire:
        report = await wire.health.check()
        assert report["reachable"].status == "pass"
        assert report["server"].values["version"] in report["server"].seen


# --- the link


@pytest.mark.errors
async def test_a_server_that_was_killed_and_comes_back(own):
    """The state is that of the moment: fail while it is away, pass when it is back."""
    patience = {"reconnect_cap": 0.1, "reconnect_attempts": 1000}
    async with Client.from_url(own.url, **patience) as client:
        health = patient(client, timeout=1.0)
        assert (await health.check()).status == "pass"
        own.kill()
        await own.wait_exit()
        with LoopLag() as lag:
            report = await health.check()
        await own.restart()
        again = await health.check()

    assert report.status == "fail"
    assert ill(report)["reachable"] == "fail"
    assert says_what_to_do(report["reachable"])
    # What could not be read is neither well nor ill, and no check is missing.
    assert {ill(report)[name] for name in NAMES[6:]} == {"unknown"}
    assert [check.name for check in report.checks] == NAMES
    assert lag.free < 1.5
    assert again["reachable"].status == "pass"
    assert again["memory"].status == "pass"


@pytest.mark.errors
@pytest.mark.parametrize("connected", [True, False])
async def test_a_server_that_says_nothing_costs_the_timeout(own, connected):
    """A stopped server is a failure within the timeout, connected before or not."""
    async with Client.from_url(own.url) as client:
        if connected:
            await client.ping()
        with frozen(own), LoopLag() as lag:
            report = await patient(client, timeout=0.5).check()
        assert (report.status, report["reachable"].status) == ("fail", "fail")
        assert lag.free < 2.0
        assert (await patient(client).check())["reachable"].status == "pass"


@pytest.mark.errors
async def test_a_link_that_is_cut_under_a_check_is_made_anew(own):
    """A connection lost between two questions is made anew, and is no outage."""
    async with FaultProxy(own.url) as proxy, Client.from_url(proxy.url) as client:
        await client.ping()
        proxy.down.cut_after = 2
        report = await patient(client).check()
        assert report["reachable"].status == "pass"
        assert report["memory"].status == "pass"
        assert client.stats().connects == 2


@pytest.mark.errors
async def test_an_open_circuit_fails_at_once(own):
    """When the client has given up for a while, the report says so without waiting."""
    url = own.url
    await own.stop()
    async with Client.from_url(
        url, reconnect_attempts=2, reconnect_delay=0.01, command_timeout=0.2
    ) as client:
        health = patient(client)
        report = await eventually(
            health.check, holds=lambda r: r["circuit"].status == "fail"
        )
        with LoopLag() as lag:
            report = await health.check()

        # Its timeout is 2 s.
        assert lag.free < 1.0
        assert report["circuit"].values["open"] == 1
        assert "open" in report["circuit"].seen
        assert report["reachable"].values["error"] == "CircuitOpen"


@pytest.mark.errors
async def test_a_wrong_password_is_named_and_not_shown(own):
    """Refused credentials are a failure whose fix is the variable to look at."""
    url = f"redis://:wr0ng-secret@127.0.0.1:{own.port}"
    async with Client.from_url(url) as client:
        report = await patient(client).check()

    assert report["reachable"].values["error"] == "AuthFailed"
    assert "REDIS_PASSWORD" in report["reachable"].fix
    assert "wr0ng-secret" not in str(report)


@pytest.mark.errors
async def test_a_closed_client_is_a_failure(own):
    """A client that was closed is reported, not raised."""
    client = Client.from_url(own.url)
    await client.aclose()
    report = await patient(client).check()

    assert report["reachable"].values["error"] == "ClosedError"
    assert report.status == "fail"


@pytest.mark.errors
async def test_a_client_of_another_loop_is_a_failure(own, client):
    """Asked in another event loop, the report says so; nothing is sent from there."""
    await client.ping()
    report = await asyncio.to_thread(lambda: asyncio.run(patient(client).check()))

    assert report["reachable"].values["error"] == "WrongLoop"
    assert "in this event loop" in report["reachable"].fix
    assert (await patient(client).check()).status == "pass"


@pytest.mark.advanced
async def test_a_slow_link_warns_and_a_very_slow_one_fails(own):
    """Latency is that of PINGs on the link as it is now."""
    limits = Thresholds(latency=Bound(0.02, 0.2), loop_lag=Bound(5.0))
    async with FaultProxy(own.url) as proxy, Client.from_url(proxy.url) as client:
        health = Health(client, thresholds=limits, timeout=5.0)
        proxy.down.latency = 0.03
        slow = await health.check()
        proxy.down.latency = 0.22
        slower = await health.check()

    assert slow["latency"].status == "warn"
    assert slow["latency"].values["median"] >= 0.03
    assert slower["latency"].status == "fail"
    assert says_what_to_do(slower["latency"])


@pytest.mark.advanced
async def test_a_silence_longer_than_the_threshold_warns(own):
    """The heartbeat's age is that before the check, which itself ends the silence."""
    limits = Thresholds(silence=Bound(0.2))
    async with Client.from_url(own.url, heartbeat=3600) as client:
        await client.ping()

        async def silence():
            return client.stats().connections.silent

        await eventually(silence, holds=lambda seconds: seconds > 0.25)
        report = await Health(client, thresholds=limits).check()
        assert report["heartbeat"].status == "warn"
        assert report["heartbeat"].values["seconds"] > 0.2
        # The check itself ended the silence.
        assert client.stats().connections.silent < report["heartbeat"].values["seconds"]


@pytest.mark.advanced
@pytest.mark.parametrize(("block", "status"), [(0.1, "warn"), (0.4, "fail")])
async def test_a_blocked_loop_is_ours_and_not_the_servers(client, block, status):
    """A callback that blocks the loop while it looks is found and called so."""
    level = Bound(0.05, 0.3 if status == "fail" else 5.0)
    limits = Thresholds(loop_lag=level, latency=Bound(5.0))
    await client.ping()
    asyncio.get_running_loop().call_soon(time.sleep, block)
    report = await Health(client, thresholds=limits).check()

    assert report["loop"].status == status
    assert report["loop"].values["seconds"] >= block / 2
    assert "PYTHONASYNCIODEBUG" in report["loop"].fix


@pytest.mark.advanced
@pytest.mark.parametrize(
    ("failing", "status"), [(0, "pass"), (4, "warn"), (40, "fail")]
)
async def test_failing_calls_of_the_last_minute(client, failing, status):
    """The share of failed calls decides, with the classes of their errors."""
    await client.set("k", "v")
    await asyncio.gather(*(client.get("k") for _ in range(30)))
    await asyncio.gather(
        *(client.lpush("k", 1) for _ in range(failing)), return_exceptions=True
    )
    check = (await patient(client).check())["calls"]

    assert check.status == status
    assert check.values["failures"] == failing
    # The handshake's replies are among them.
    assert 31 + failing <= check.values["calls"] <= 35 + failing
    assert ("WrongType" in check.seen) == bool(failing)


@pytest.mark.advanced
async def test_few_calls_are_not_judged(client):
    """Two failures of two calls are no rate."""
    await client.set("k", "v")
    await asyncio.gather(
        *(client.lpush("k", 1) for _ in range(2)), return_exceptions=True
    )
    assert (await patient(client).check())["calls"].status == "pass"


# --- the server


@pytest.mark.errors
async def test_a_server_that_loads_its_data_fails_and_says_wait():
    """While it loads it answers, refuses, and the report has both."""
    slow = (
        *("--enable-debug-command", "yes", "--key-load-delay", "1000"),
        *("--loading-process-events-interval-bytes", "1024"),
    )
    async with (
        EmbeddedServer(args=slow) as server,
        # It waits for the whole reload, which is made slow above.
        Client.from_url(server.url, command_timeout=60.0) as busy,
    ):
        pipe = busy.pipeline(transaction=False)
        for number in range(1500):
            pipe.set(f"k{number}", "v" * 100)
        await pipe.execute()
        async with Client.from_url(server.url) as client, asyncio.TaskGroup() as group:
            await client.ping()
            reload = group.create_task(busy.execute_command("DEBUG", "RELOAD"))
            while not reload.done():
                report = await patient(client).check()
                # It may begin to load between the two looks of one report.
                if report["server"].status == report["reachable"].status == "fail":
                    break
            assert report["server"].values["loading"] == 1
            assert report["reachable"].values["error"] == "Loading"
            assert says_what_to_do(report["server"])
            assert says_what_to_do(report["reachable"])
            assert report.status == "fail"


@pytest.mark.errors
async def test_a_replica_in_the_primarys_place_fails_with_its_primary(own):
    """A replica named as the primary is a failure that names where the primary is."""
    args = ("--replicaof", "127.0.0.1", str(own.port), "--masterauth", own.password)
    async with Client.from_url(own.url) as primary:
        await primary.config_set("repl-diskless-sync-delay", 0)
    replica = EmbeddedServer(args=args)
    async with replica, Client.from_url(replica.url) as client:
        health = patient(client)
        report = await eventually(
            health.check, holds=lambda r: r["replication"].status == "pass"
        )
        assert (report.status, report["role"].status) == ("fail", "fail")
        assert f"127.0.0.1:{own.port}" in report["role"].fix
        own.kill()
        report = await eventually(
            health.check, holds=lambda r: r["replication"].status == "fail"
        )
        assert "down" in report["replication"].seen


@pytest.mark.errors
async def test_a_replica_that_lags_warns_at_the_primary(own, client):
    """A replica that is not heard of any more shows at its primary."""
    limits = Thresholds(replica_lag=Bound(2.0), latency=Bound(5), loop_lag=Bound(5))
    args = ("--replicaof", "127.0.0.1", str(own.port), "--masterauth", own.password)
    health = Health(client, thresholds=limits)
    await client.config_set("repl-diskless-sync-delay", 0)
    async with EmbeddedServer(args=args) as replica:
        await eventually(
            health.check,
            holds=lambda r: (
                r["replication"].values.get("replicas") == 1
                and r["replication"].status == "pass"
            ),
        )
        replica.kill(signal.SIGSTOP)
        report = await eventually(
            health.check, holds=lambda r: r["replication"].status == "warn"
        )
        replica.kill(signal.SIGCONT)
    assert report["replication"].values["lag"] >= 2
    assert says_what_to_do(report["replication"])


@pytest.mark.errors
async def test_memory_warns_and_fails_before_writes_are_refused(client):
    """Near maxmemory it warns, nearer it fails; what may evict is full by design."""
    health = patient(client)
    used = (await client.info("memory"))["used_memory"]
    seen = []
    for share in (0.5, 0.87, 0.98):
        await client.config_set("maxmemory", int(used / share))
        seen.append((await health.check())["memory"])
    await client.config_set("maxmemory-policy", "allkeys-lru")
    evicting = (await patient(client, durable=False).check())["memory"]

    assert [check.status for check in seen] == ["pass", "warn", "fail"]
    assert says_what_to_do(seen[2])
    assert evicting.status == "pass"


@pytest.mark.errors
async def test_eviction_is_judged_by_what_the_server_is_for(client):
    """Evicting is a failure of a durable server and the work of a disposable one."""
    durable, disposable = patient(client), patient(client, durable=False)

    async def seen(health):
        check = (await health.check())["eviction"]
        assert check.status == "pass" or says_what_to_do(check)
        return str(check.status)

    assert (await seen(durable), await seen(disposable)) == ("pass", "warn")
    used = (await client.info("memory"))["used_memory"]
    await client.config_set("maxmemory", used + 2_000_000)
    assert (await seen(durable), await seen(disposable)) == ("pass", "warn")
    await client.config_set("maxmemory-policy", "allkeys-lru")
    assert (await seen(durable), await seen(disposable)) == ("warn", "pass")
    for number in range(300):
        await client.set(f"big:{number}", b"x" * 20_000)
    report = await durable.check()
    assert report["eviction"].values["evicted"] > 0
    assert (await seen(durable), await seen(disposable)) == ("fail", "pass")


@pytest.mark.errors
@pytest.mark.parametrize(("durable", "status"), [(True, "fail"), (False, "warn")])
async def test_a_server_that_cannot_save_fails(tmp_path, durable, status):
    """MISCONF: the report has the disk as the cause and the refused calls beside it."""
    server = EmbeddedServer(data_dir=tmp_path)
    async with server, Client.from_url(server.url) as client:
        await client.config_set("save", "3600 1")
        await client.set("k", "v")
        # A directory in the file's place: the rename at the end of saving fails.
        (tmp_path / "dump.rdb").mkdir()
        (tmp_path / "dump.rdb" / "x").touch()
        await client.execute_command("BGSAVE")
        report = await eventually(
            patient(client, durable=durable).check,
            # The save may end between the two looks of one report.
            holds=lambda r: (
                r["persistence"].status == status and r["reachable"].status == "fail"
            ),
        )
        await client.config_set("save", "")
    assert report["persistence"].values["snapshot"] == "err"
    assert says_what_to_do(report["persistence"])
    assert report["reachable"].status == "fail"
    assert report["reachable"].values["error"] == "Misconfigured"
    assert "stop-writes-on-bgsave-error" in report["reachable"].fix


@pytest.mark.errors
@pytest.mark.parametrize(("others", "status"), [(5, "pass"), (8, "warn"), (9, "fail")])
async def test_clients_near_maxclients(own, others, status):
    """Connections near the server's cap warn, then fail, before it refuses any."""
    async with Client.from_url(own.url) as client:
        await client.ping()
        await client.config_set("maxclients", 10)
        links = [
            await asyncio.open_connection(own.host, own.port) for _ in range(others)
        ]
        for reader, writer in links:  # the server has taken it
            writer.write(b"PING\r\n")
            await reader.readline()
        report = await patient(client).check()
        for _, writer in links:
            writer.close()
            await writer.wait_closed()

    assert report["connections"].values["connected"] == others + 1
    assert report["connections"].status == status


@pytest.mark.errors
async def test_calls_that_wait_for_a_connection_warn(own):
    """A pool that is used up shows as calls that wait, whatever the server says."""
    async with Client.from_url(own.url, pool_max=3, acquire_timeout=20) as client:
        await client.ping()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.blpop("none", 10)) for _ in range(2)]
            report = await eventually(
                patient(client).check,
                holds=lambda r: r["connections"].values["waiting"] == 1,
            )
            for task in tasks:
                task.cancel()
    assert report["connections"].status == "warn"
    assert report["connections"].values["in_use"] == 2
    assert "REDIS_POOL_MAX" in report["connections"].fix


@pytest.mark.errors
async def test_a_user_without_info_is_told_what_is_unknown(own, client):
    """What may not be read is unknown with the grant to make, and the rest is read."""
    await client.execute_command("ACL SETUSER", "few", "on", ">pw", "-@all", "+ping")
    url = f"redis://few:pw@127.0.0.1:{own.port}"
    async with Client.from_url(url) as few:
        report = await patient(few).check()
    assert report.status == "warn"
    assert ill(report) == dict.fromkeys(NAMES[6:], "unknown")
    assert report["memory"].fix == "ACL SETUSER <user> +info"
    assert report["latency"].status == "pass"


@pytest.mark.errors
async def test_a_user_without_ping_is_reachable(own, client):
    """A refused PING is an answer: the server is there."""
    await client.execute_command("ACL SETUSER", "few", "on", ">pw", "-@all", "+info")
    url = f"redis://few:pw@127.0.0.1:{own.port}"
    async with Client.from_url(url) as few:
        report = await patient(few).check()
    assert report["reachable"].status == "pass"
    assert report["memory"].status == "pass"


@pytest.mark.errors
async def test_a_part_that_returns_no_verdict_ends_no_report(client):
    """A check that says nothing is unknown; what cannot be one is refused at once."""
    health = Health(client)
    health.add("odd", "it is part of this test", lambda: None)
    (odd,) = [each for each in (await health.check()).checks if each.name == "odd"]
    assert (odd.status, odd.seen) == (Status.UNKNOWN, "unknown: it returned NoneType")

    async def look():
        return None

    for name, wrong in (("", print), (None, print), ("odd", print)):
        with pytest.raises(SettingsError, match="check"):
            health.add(name, "why", wrong)
    for wrong in (look, 5, None):
        with pytest.raises(SettingsError, match="must be a plain function"):
            health.add("other", "why", wrong)
    for wrong in (None, "redis://host"):
        with pytest.raises(SettingsError, match="client must be"):
            Health(wrong)
    for options in ({"thresholds": 5}, {"timeout": 0}, {"timeout": None}):
        with pytest.raises(SettingsError, match=next(iter(options))):
            Health(client, **options)
    for warn in (None, "5", float("nan"), True, -1):
        with pytest.raises(SettingsError, match="a bound has"):
            Bound(warn)
