"""`oddswire stats` and `oddswire acl`: what they print is what the server has."""

from __future__ import annotations

import json

import msgspec
import pytest

from oddswire import Client
from oddswire.cli._stats import Snapshots
from oddswire.errors import NoPermission, WrongType

pytestmark = pytest.mark.requirement("O2")


@pytest.mark.integration
@pytest.mark.requirement("C10")
async def test_the_numbers_are_the_servers(own, client, beside):
    """Calls, hits, keys, memory and errors are those that INFO has."""
    await client.set("k", "v", ex=60)
    for name in ("k", "k", "k", "none"):
        await client.get(name)
    with pytest.raises(WrongType):
        await client.lpush("k", 1)
    done = await beside("stats", "--json", url=own.url)
    info = await client.info("everything")

    found = json.loads(done.stdout)["servers"][0]
    commands = {each["name"]: each for each in found["commands"]}
    assert done.exit_code == 0
    assert commands["GET"]["calls"] == info["cmdstat_get"]["calls"] == 4
    assert commands["LPUSH"]["failed"] == 1
    assert commands["SET"]["seconds"] == info["cmdstat_set"]["usec"] / 1e6
    assert found["hit_rate"] == 0.75
    assert found["keys"] == 1
    assert found["errors"] == {"WRONGTYPE": 1}
    assert found["memory"] == pytest.approx(info["used_memory"], 0.1)
    assert found["client"]["calls"] == {"INFO": 1}
    assert [each["seconds"] for each in found["commands"]] == sorted(
        (each["seconds"] for each in found["commands"]), reverse=True
    )
    snapshots = msgspec.json.decode(done.stdout, type=Snapshots)
    assert json.loads(msgspec.json.encode(snapshots)) == json.loads(done.stdout)


@pytest.mark.basic
def test_stats_json_has_the_fields_that_are_documented(run, server):
    """The JSON of schema 1 has these fields."""
    found = json.loads(run("stats", "--json", url=server.url).stdout)

    assert list(found) == ["schema", "servers"]
    assert found["schema"] == 1
    assert list(found["servers"][0]) == [
        *("name", "address", "version", "uptime", "clients", "blocked", "memory"),
        *("memory_limit", "keys", "hit_rate", "evicted", "expired", "per_second"),
        *("commands", "errors", "client"),
    ]
    assert list(found["servers"][0]["commands"][0]) == [
        *("name", "calls", "seconds", "mean", "failed", "rejected")
    ]


@pytest.mark.basic
def test_stats_for_people(run, server):
    """As text there are the numbers, and as many commands as were asked for."""
    done = run("stats", "--top", "2", url=server.url)
    assert done.exit_code == 0
    assert done.stdout.count(" calls  ") == 2
    assert "  memory    " in done.stdout


@pytest.mark.errors
async def test_stats_that_may_not_be_read_are_no_zeros(own, client, beside):
    """Without INFO there are no numbers, an exit code of 1, and what helps."""
    await client.execute_command("ACL SETUSER", "few", "on", ">pw", "-@all", "+ping")
    done = await beside("stats", url=f"redis://few:pw@127.0.0.1:{own.port}")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "oddswire acl" in done.stderr


@pytest.mark.integration
async def test_printed_lines_make_the_user(own, client, beside):
    """A printed line is accepted as it is, and the user can then do that, not more."""
    done = await beside("acl", "health", "--user", "watcher", url=own.url)
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    assert await client.execute_command(*line.split(" "))
    # No password was set, so nobody can log in yet.
    url = f"redis://watcher:pw@127.0.0.1:{own.port}"
    assert (await beside("doctor", url=url)).exit_code == 1
    await client.execute_command("ACL SETUSER", "watcher", ">pw")
    assert (await beside("doctor", url=url)).exit_code == 0
    # Typed again, it keeps the password and takes what was granted meanwhile.
    await client.execute_command("ACL SETUSER", "watcher", "+get", "~*", "&*")
    await client.execute_command(*line.split(" "))
    rights = await client.acl_getuser("watcher")
    assert (rights["keys"], rights["channels"]) == ([], [])
    async with Client.from_url(url) as watcher:
        with pytest.raises(NoPermission):
            await watcher.get("k")


@pytest.mark.basic
def test_acl_json_has_the_fields_that_are_documented(run):
    """One user for each part, or one for all of them; the JSON of schema 1."""
    each = json.loads(run("acl", "client", "stats", "--offline", "--json").stdout)
    one = json.loads(
        run("acl", "client", "stats", "--offline", "--json", "--user", "bot").stdout
    )
    assert list(each) == ["schema", "left_out", "withheld", "users"]
    assert [user["user"] for user in each["users"]] == [
        "oddswire-client",
        "oddswire-stats",
    ]
    assert [user["components"] for user in one["users"]] == [["client", "stats"]]
    for user in (*each["users"], *one["users"]):
        assert list(user) == ["user", "components", "rules", "line"]
        assert user["line"] == f"ACL SETUSER {user['user']} {' '.join(user['rules'])}"
        assert "-@all" in user["rules"]


@pytest.mark.errors
@pytest.mark.parametrize(
    "words", [["nope"], ["client", "--user", "two words"], ["--user", ""]]
)
def test_acl_refuses_names_that_are_none(run, words):
    """An unknown part, or a name that would be two words of the line, ends with 2."""
    done = run("acl", "--offline", *words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("oddswire: ")
