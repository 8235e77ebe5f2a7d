"""`oddswire doctor`: its verdicts on real servers, its exit codes, its JSON."""

from __future__ import annotations

import io
import json
import re
import shutil
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import trustme

from oddswire import Client, EmbeddedServer, Settings
from oddswire.cli._app import progress
from oddswire.cli._checks import CHECKS, Target, clock_skew, tls
from oddswire.cli._checks import run as run_check
from oddswire.cli._doctor import Diagnosis, examine
from oddswire.cli._servers import servers
from oddswire.clock import ManualClock, SystemClock
from oddswire.embedded import EmbeddedSentinels
from oddswire.embedded.server import free_port
from support import eventually

pytestmark = pytest.mark.requirement("O2")


def quiet(_):
    """Tell nobody."""


async def looked(url, **options):
    """Return the checks of the one server at a URL, by name."""
    found = await examine(servers(Settings(url=url, **options)), SystemClock(), quiet)
    return {check.name: check for check in found.servers[0].checks}


def statuses(checks, *names):
    """Return the status of each of these checks."""
    return {name: str(checks[name].status) for name in names}


# --- exit codes and output


@pytest.mark.basic
def test_a_server_without_faults_ends_with_0(run, server):
    """Warnings are printed with what to type, and are no failure."""
    done = run("doctor", url=server.url)

    assert done.exit_code == 0
    assert done.stdout.startswith(f"main: 127.0.0.1:{server.port} (durable): warn")
    assert "  pass    reachable" in done.stdout
    assert "do:  CONFIG SET appendonly yes, CONFIG REWRITE" in done.stdout
    assert done.stdout.index("  warn    ") < done.stdout.index("  pass    ")
    assert re.fullmatch(r"warn: \d warnings, \d\d passed", done.stdout.splitlines()[-1])
    assert done.stderr == ""


@pytest.mark.basic
def test_url_replaces_the_variable(run, server, unused_tcp_port):
    """`--url` is looked at and REDIS_URL is not."""
    elsewhere = f"redis://127.0.0.1:{unused_tcp_port}"
    assert run("doctor", "--url", server.url, url=elsewhere).exit_code == 0


@pytest.mark.errors
def test_a_server_that_is_away_ends_with_1(run, unused_tcp_port):
    """Nobody answers: one failure, with what to type, and an exit code for scripts."""
    done = run(
        "doctor",
        url=f"redis://127.0.0.1:{unused_tcp_port}",
        REDIS_COMMAND_TIMEOUT="300",
    )
    assert done.exit_code == 1
    assert "  fail    reachable" in done.stdout
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("  fail")] == lines[1:2]
    assert "redis-cli -u $REDIS_URL ping" in done.stdout
    assert lines[-2] == "  19 checks skipped: no connection"
    # It measures how late its own loop is: beside other work that may be a warning.
    assert lines[-1] in {
        "fail: 1 failed, 19 skipped, 5 passed",
        "fail: 1 failed, 1 warnings, 19 skipped, 4 passed",
    }
    assert done.stderr == ""


@pytest.mark.errors
def test_a_server_that_is_away_has_the_same_checks(run, server, unused_tcp_port):
    """The JSON has every check whether the server answers or not; none is guessed."""
    away = run(
        "doctor",
        "--json",
        url=f"rediss://127.0.0.1:{unused_tcp_port}",
        REDIS_COMMAND_TIMEOUT="300",
    )
    there = run("doctor", "--json", url=server.url)
    found, other = (
        {
            check["name"]: check
            for check in json.loads(done.stdout)["servers"][0]["checks"]
        }
        for done in (away, there)
    )
    assert list(found) == list(other)
    told = {name for name, check in found.items() if check["status"] != "unknown"}
    assert told == {"reachable", "circuit", "loop", "calls", "settings"}


@pytest.mark.errors
@pytest.mark.parametrize("command", ["doctor", "stats", "acl"])
def test_no_server_named_ends_with_2(run, command):
    """Without REDIS_URL there is nothing to look at, and no server is started."""
    done = run(command)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "set REDIS_URL, or give --url" in done.stderr


@pytest.mark.errors
@pytest.mark.parametrize("command", ["doctor", "stats", "acl"])
def test_wrong_settings_end_with_2(run, command):
    """A wrong setting is named with its variable; nothing was asked."""
    done = run(command, url="redis://localhost", REDIS_POOL_MIN="one")
    assert done.exit_code == 2
    assert "REDIS_POOL_MIN" in done.stderr


@pytest.mark.basic
def test_json_has_the_fields_that_are_documented(run, server):
    """The JSON of schema 1 has these fields, and reads back as the same diagnosis."""
    done = run("doctor", "--json", url=server.url)
    found = json.loads(done.stdout)
    finding = found["servers"][0]

    assert list(found) == ["schema", "status", "servers"]
    assert found["schema"] == 1
    assert found["status"] == "warn"
    assert list(finding) == [
        "name",
        "address",
        "durable",
        "status",
        "checks",
        "features",
        "skipped",
    ]
    assert [check["name"] for check in finding["checks"]][14:] == [
        *(name for name, _, _ in CHECKS),
        "features",
    ]
    for check in finding["checks"]:
        assert list(check) == ["name", "status", "seen", "why", "fix", "values"]
    for feature in finding["features"]:
        assert list(feature) == ["name", "present", "what"]
    diagnosis = msgspec.json.decode(done.stdout, type=Diagnosis)
    assert json.loads(msgspec.json.encode(diagnosis)) == found


@pytest.mark.basic
def test_progress_is_for_terminals():
    """What is being looked at is shown on a terminal, cleared at the end."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal, file = Terminal(), io.StringIO()
    for out in (terminal, file):
        with progress(out) as tell:
            tell("main: health")
    assert terminal.getvalue() == "\r\x1b[Kmain: health\r\x1b[K"
    assert file.getvalue() == ""


# --- what it finds


@pytest.mark.integration
async def test_a_well_kept_server_passes():
    """Persistence, a limit and no eviction: nothing is left to say."""
    async with EmbeddedServer(aof=True, args=("--maxmemory", "100mb")) as server:
        checks = await looked(server.url)
    bad = {n: c.seen for n, c in checks.items() if c.status != "pass"}
    # A busy machine may make a PING late.
    assert set(bad) <= {"latency", "loop", "round_trip"}


@pytest.mark.errors
async def test_a_sentinel_is_no_server_of_data():
    """Its address as REDIS_URL fails the role, and the advice is the right form."""
    async with EmbeddedSentinels(replicas=0, sentinels=1) as group:
        (sentinel,) = group.sentinels
        role = (await looked(sentinel.url))["role"]
    assert (role.status, role.seen) == ("fail", "a Sentinel, which keeps no data")
    assert "ODDSWIRE_SENTINELS" in role.fix


@pytest.mark.integration
async def test_two_servers_are_judged_by_their_roles(own, client):
    """The cache's server may evict and forget; the other must not."""
    async with EmbeddedServer(
        args=("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lfu")
    ) as disposable:
        settings = Settings(url=own.url, cache_url=disposable.url)
        found = await examine(servers(settings), SystemClock(), quiet)
        main, cache = (
            {check.name: check for check in each.checks} for each in found.servers
        )
        names = ("eviction", "durability")
        assert [each.name for each in found.servers] == ["main", "cache"]
        assert statuses(cache, *names) == dict.fromkeys(names, "pass")
        assert statuses(main, *names) == {"eviction": "pass", "durability": "warn"}
        assert statuses(await looked(disposable.url), *names) == {
            "eviction": "warn",
            "durability": "warn",
        }


@pytest.mark.errors
async def test_a_deployed_server_without_persistence_fails(own, client):
    """In production, losing what users asked for at a restart is a failure."""
    checks = await looked(own.url, profile="production")
    assert statuses(checks, "durability") == {"durability": "fail"}
    await client.config_set("save", "3600 1")
    checks = await looked(own.url, profile="production")
    assert statuses(checks, "durability", "privilege") == {
        "durability": "warn",
        "privilege": "warn",
    }
    assert "flushall" in checks["privilege"].values["allowed"].split()


@pytest.mark.errors
async def test_replicas_without_a_minimum_warn(own, client):
    """A primary with replicas has to stop taking writes when it is cut off."""
    await client.config_set("repl-diskless-sync-delay", 0)
    args = ("--replicaof", "127.0.0.1", str(own.port), "--masterauth", own.password)
    async with (
        EmbeddedServer(args=args) as replica,
        Client.from_url(own.url) as blocking,
    ):
        await blocking.set("k", "v")
        await blocking.wait(1, 10_000)
        before = (await looked(own.url))["min_replicas"]
        await client.config_set("min-replicas-to-write", 1, "min-replicas-max-lag", 2)
        after = (await looked(own.url))["min_replicas"]
        on_replica = (await looked(replica.url))["min_replicas"]
    assert (before.status, after.status) == ("warn", "pass")
    assert "min-replicas-to-write 1" in before.fix
    # Only its primary can be set so that it stops: no advice for the replica itself.
    assert (on_replica.status, on_replica.values) == ("unknown", {})
    assert on_replica.fix == "look at the primary, which the check role names"
    assert "older than 6 s" in after.seen


@pytest.mark.errors
async def test_a_minimum_that_a_deposed_primary_can_keep_warns(own, client):
    """Two replicas and a minimum of 1: cut off with one of them, it goes on."""
    await client.config_set("repl-diskless-sync-delay", 0)
    await client.config_set("min-replicas-to-write", 1)
    args = ("--replicaof", "127.0.0.1", str(own.port), "--masterauth", own.password)
    async with EmbeddedServer(args=args), EmbeddedServer(args=args):

        async def replicas():
            return (await client.info("replication"))["min_slaves_good_slaves"]

        await eventually(replicas, holds=lambda count: count == 2)
        before = (await looked(own.url))["min_replicas"]
        await client.execute_command("ACL", "SETUSER", "default", "-config|get")
        untold = (await looked(own.url))["min_replicas"]
        await client.execute_command("ACL", "SETUSER", "default", "+config|get")
        await client.config_set("min-replicas-to-write", 2)
        after = (await looked(own.url))["min_replicas"]
    assert (before.status, untold.status, after.status) == ("warn", "unknown", "pass")
    assert "a deposed primary goes on" in before.seen
    assert "min-replicas-to-write 2" in before.fix


@pytest.mark.errors
async def test_a_server_that_closes_idle_connections_warns(own, client):
    """A `timeout` shorter than the heartbeat closes what is merely quiet."""
    await client.config_set("timeout", 20)
    assert (await looked(own.url))["idle_timeout"].status == "warn"
    assert (await looked(own.url, heartbeat=10.0))["idle_timeout"].status == "pass"


@pytest.mark.errors
@pytest.mark.parametrize(("ahead", "status"), [(0.0, "pass"), (-30.0, "warn")])
async def test_a_clock_that_is_off_warns(own, client, ahead, status):
    """The server's time is compared with ours, both ways."""
    clock = ManualClock(SystemClock().now() + ahead)
    server = servers(Settings(url=own.url))[0]
    check = await clock_skew(
        Target(server=server, client=client, clock=clock,
                reachable=True, replicas=0, config={}, commands=None)
    )  # fmt: skip
    assert check.status == status
    assert check.values["seconds"] == pytest.approx(-ahead, abs=0.9)


@pytest.mark.errors
@pytest.mark.parametrize(
    ("url", "options", "status"),
    [
        ("redis://localhost", {}, "pass"),
        ("redis://10.0.0.1", {}, "warn"),
        ("redis://redis.example.com", {}, "fail"),
        ("rediss://redis.example.com", {"tls_verify": False}, "warn"),
        ("rediss://redis.example.com", {"tls_check_hostname": False}, "warn"),
    ],
)
async def test_what_the_link_lets_others_read(client, url, options, status):
    """Plaintext beyond this machine, and a certificate nobody checks, are told."""
    server = servers(Settings(url=url, **options))[0]
    check = await tls(
        Target(server=server, client=client, clock=SystemClock(),
                reachable=True, replicas=0, config={}, commands=None)
    )  # fmt: skip
    assert check.status == status
    assert check.fix or status == "pass"


@pytest.mark.errors
@pytest.mark.system("redis-server", package="redis-server")
@pytest.mark.parametrize(("days", "status"), [(90, "pass"), (5, "warn")])
async def test_a_certificate_that_ends_soon_warns(tmp_path, days, status):
    """Over TLS the days that the certificate has left are told, before it ends."""
    authority, port = trustme.CA(), free_port()
    ends = datetime.now(UTC) + timedelta(days=days, hours=1)  # noqa: TID251 - of files
    issued = authority.issue_cert("127.0.0.1", not_after=ends)
    ca, pem = tmp_path / "ca.pem", tmp_path / "server.pem"
    authority.cert_pem.write_to_path(str(ca))
    issued.private_key_and_cert_chain_pem.write_to_path(str(pem))
    server = EmbeddedServer(
        binary=shutil.which("redis-server"),
        args=(
            *("--tls-port", str(port), "--tls-ca-cert-file", str(ca)),
            *("--tls-cert-file", str(pem), "--tls-key-file", str(pem)),
            *("--tls-auth-clients", "no"),
        ),
    )
    async with server:
        url = f"rediss://:{server.password}@127.0.0.1:{port}"
        checks = await looked(url, tls_ca_file=str(ca))
    assert statuses(checks, "reachable", "tls") == {"reachable": "pass", "tls": status}
    assert int(checks["tls"].values["days"]) == days


@pytest.mark.errors
@pytest.mark.requirement("C1")
@pytest.mark.parametrize(
    ("change", "seen", "fix"),
    [
        (("/0", "/99"), "database 99", "database's number"),
        (("redis://", "rediss://"), "does this port speak TLS", "the scheme"),
    ],
)
async def test_a_server_that_answers_is_not_asked_for(own, change, seen, fix):
    """Where the server answered, its words are told and the fix is about them."""
    checks = await looked(own.url.replace(*change))
    assert checks["reachable"].status == "fail"
    assert seen in checks["reachable"].seen
    assert fix in checks["reachable"].fix
    assert checks["tls"].status != "pass" or not change[1].startswith("rediss")


@pytest.mark.errors
@pytest.mark.requirement("C1")
@pytest.mark.system("redis-server", package="redis-server")
async def test_a_certificate_that_does_not_hold_fails(tmp_path):
    """A verification that failed is a failure of `tls`, with the authority to name."""
    issued, port = trustme.CA().issue_cert("127.0.0.1"), free_port()
    pem = tmp_path / "server.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(pem))
    async with EmbeddedServer(
        binary=shutil.which("redis-server"),
        args=(
            *("--tls-port", str(port), "--tls-ca-cert-file", str(pem)),
            *("--tls-cert-file", str(pem), "--tls-key-file", str(pem)),
            *("--tls-auth-clients", "no"),
        ),
    ) as server:
        checks = await looked(f"rediss://:{server.password}@127.0.0.1:{port}")
    found = statuses(checks, "reachable", "tls")
    assert found == {"reachable": "fail", "tls": "fail"}
    assert "CERTIFICATE_VERIFY_FAILED" in checks["tls"].seen
    assert "ODDSWIRE_TLS_CA_FILE" in checks["reachable"].fix


@pytest.mark.errors
async def test_a_certificate_that_is_not_shown_is_unknown(client, unused_tcp_port):
    """A certificate that could not be looked at is not taken for a good one."""
    server = servers(Settings(url=f"rediss://127.0.0.1:{unused_tcp_port}"))[0]
    target = Target(server=server, client=client, clock=SystemClock(),
                      reachable=True, replicas=0, config={}, commands=None)  # fmt: skip
    assert (await run_check(tls, target)).status == "unknown"


@pytest.mark.errors
async def test_a_user_who_may_ask_little_is_told_what_is_unknown(own, client):
    """What may not be read is unknown with the grant to ask for; nothing raises."""
    await client.execute_command(
        "ACL SETUSER", "few", "on", ">pw", "-@all", "+ping", "+info"
    )
    checks = await looked(f"redis://few:pw@127.0.0.1:{own.port}")
    unknown = {name for name, check in checks.items() if check.status == "unknown"}
    assert unknown == {
        "clock",
        "maxmemory",
        "durability",
        "idle_timeout",
        "permissions",
        "privilege",
        "features",
    }
    assert all("oddswire doctor --url" in checks[name].fix for name in unknown)


@pytest.mark.errors
@pytest.mark.requirement("X2")
@pytest.mark.parametrize(
    "rules",
    [
        "-@all",
        "-@all +info +acl|whoami",
        "-@all +@read +@write ~*",
        "+@all -ping ~* &*",
    ],
)
async def test_a_user_who_may_do_nothing_ends_with_1(own, client, beside, rules):
    """Every part sends PING: without it none works, known or not by ACL DRYRUN."""
    await client.execute_command("ACL SETUSER", "none", "on", ">pw", *rules.split())
    url = f"redis://none:pw@127.0.0.1:{own.port}"
    check = (await looked(url))["permissions"]
    done = await beside("doctor", url=url)

    assert check.status == "fail"
    assert "oddswire acl --add --user none client" in check.fix
    assert done.exit_code == 1
    assert "  fail    permissions" in done.stdout


@pytest.mark.errors
async def test_commands_that_are_refused_are_named_by_part(own, client):
    """Each part whose commands the user lacks is named, with the line that helps."""
    await client.execute_command(
        *("ACL SETUSER", "some", "on", ">pw", "-@all"),
        *("+info", "+ping", "+acl|whoami", "+acl|dryrun", "+command|info"),
    )
    check = (await looked(f"redis://some:pw@127.0.0.1:{own.port}"))["permissions"]
    assert check.status == "warn"
    assert check.values["lacking"].split() == [
        *("client", "cache", "sessions", "locks", "ratelimit", "pubsub", "queue"),
        "adapters",
    ]
    assert "'select'" in check.seen
    assert check.fix == (
        "if these are used: oddswire acl --add --user some client cache sessions locks "
        "ratelimit pubsub queue adapters"
    )


@pytest.mark.integration
@pytest.mark.requirement("X2")
async def test_advice_on_permissions_converges_and_takes_nothing_away(
    own, client, beside
):
    """The line that the check names mends it, and what the user could do stays."""
    await client.execute_command(
        *("ACL SETUSER", "some", "on", ">pw", "-@all", "+geoadd", "~places:*"),
        *("+info", "+ping", "+acl|whoami", "+acl|dryrun", "+command|info"),
    )
    url = f"redis://some:pw@127.0.0.1:{own.port}"
    fix = (await looked(url))["permissions"].fix
    words = fix.partition("oddswire ")[2].split()
    printed = await beside(*words, url=own.url)
    for line in printed.stdout.splitlines():
        await client.execute_command(*line.split())

    assert (await looked(url))["permissions"].status == "pass"
    async with Client.from_url(url) as some:
        assert await some.geoadd("places:home", (1.0, 2.0, "here")) == 1


@pytest.mark.basic
@pytest.mark.requirement("X2")
@pytest.mark.parametrize("user", ["default", "oddswire"])
async def test_advice_on_privilege_names_another_user_than_the_present_one(
    own, client, user
):
    """No line that doctor names replaces what the user of a running bot may do."""
    await client.execute_command("ACL SETUSER", user, "on", ">pw", "+@all", "~*", "&*")
    url = f"redis://{user}:pw@127.0.0.1:{own.port}"
    check = (await looked(url, profile="staging"))["privilege"]

    assert check.status == "warn"
    assert f"--user {user}," not in check.fix


@pytest.mark.basic
async def test_an_administrator_looks_at_the_rights_of_the_bot(own, client):
    """With `user` the rights of that user are judged, by whoever may ask for them."""
    await client.execute_command("ACL SETUSER", "bot", "on", ">pw", "-@all", "+ping")
    found = await examine(
        servers(Settings(url=own.url)), SystemClock(), quiet, user="bot"
    )
    checks = {check.name: check for check in found.servers[0].checks}

    assert checks["permissions"].values["user"] == "bot"
    assert checks["permissions"].status == "fail"
    assert checks["privilege"].status == "pass"
    assert checks["durability"].status != "unknown"


@pytest.mark.integration
@pytest.mark.system("redis-server", package="redis-server")
async def test_features_are_found_by_asking():
    """On Redis 7.0 what it lacks is absent, though its INFO is like a later one's."""
    async with EmbeddedServer() as new:
        newer = await _table(new.url)
    async with EmbeddedServer(binary=shutil.which("redis-server")) as old:
        older = await _table(old.url)

    assert all(newer.values())
    lacks = {name for name, present in older.items() if present is False}
    assert lacks == {
        "SET IFEQ",
        "CLIENT SETINFO",
        "CLIENT NO-TOUCH",
        "hash field lifetimes",
        "HSETEX",
        "WAITAOF",
        "DELIFEQ",
        "MSETEX",
    }
    assert older["RESP3"]
    assert older["CLIENT TRACKING"]


async def _table(url):
    found = await examine(servers(Settings(url=url)), SystemClock(), quiet)
    return {each.name: each.present for each in found.servers[0].features}
