"""What each part needs of a server is what its entry says: no less, and no more."""

from __future__ import annotations

import shutil
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import RedisError

from oddswire import Client, EmbeddedServer, acl
from oddswire.cli._permissions import CommandTable, allowed, denied
from oddswire.errors import InvalidKey, OddswireError, SettingsError
from oddswire.keys import FAMILIES, LOCK, RATE_LIMIT, SESSION, TOPIC

from .uses import USES

pytestmark = pytest.mark.requirement("X2")

PREFIX = "oddswire:"
# What anybody may do, whatever an ACL says.
ANYBODY = {"hello", "auth"}


@pytest.fixture(scope="module")
def names():
    """Every command of the table, and those that nothing needs."""
    return tuple(dict.fromkeys((*acl.commands(acl.COMPONENTS), *acl.DANGEROUS)))


@pytest.fixture
async def admin(own):
    """A client that may do everything."""
    async with Client.from_url(own.url) as client:
        yield client


async def make_user(admin, rules):
    """Give the user `part` these rights and nothing else."""
    await admin.execute_command("ACL SETUSER", "part", "reset", "on", ">pw", *rules)
    await admin.execute_command("ACL LOG", "RESET")
    # Nothing is left of the run before, and no script is known.
    await admin.flushall()
    await admin.script_flush()


async def refused(admin):
    """Return the commands, keys and channels that the server refused to `part`."""
    log = await admin.execute_command("ACL LOG")
    return {entry["object"] for entry in log}


@pytest.mark.basic
def test_every_entry_is_run():
    """A part that enters the table enters the test that runs it, and has one entry."""
    assert sorted(USES) == sorted(part.name for part in acl.COMPONENTS)


@pytest.mark.integration
@pytest.mark.parametrize("name", USES)
async def test_a_part_works_with_its_entry_and_nothing_else(own, admin, name):
    """As a user with just these rights the part does all it does, refused nothing."""
    part = acl.component(name)
    await make_user(admin, acl.rules([part], PREFIX, revealing=True))
    await USES[name](f"redis://part:pw@127.0.0.1:{own.port}", PREFIX)
    assert await refused(admin) == set(part.administering)


READ = "return redis.call(unpack(ARGV))"
OF_OTHERS = (
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
    ("ACL", "GETUSER", "default"),
    ("ACL", "SETUSER", "part", "allcommands", "allkeys"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "TRACKING", "ON", "BCAST"),
    ("SLOWLOG", "GET"),
    ("MONITOR",),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("SYNC",),
    ("PSUBSCRIBE", "*"),
    ("SUBSCRIBE", "of-others"),
    ("PUBLISH", "of-others", "1"),
    ("GET", "of-others"),
    ("MGET", "of-others", "of-others"),
    ("GETRANGE", "of-others", "0", "-1"),
    ("SET", "of-others", "1"),
    ("UNLINK", "of-others"),
    ("EXISTS", "of-others"),
    ("HGETALL", "of-others"),
    ("ZUNIONSTORE", "of-others", "1", "of-others"),
    ("XRANGE", "of-others", "-", "+"),
    ("XREAD", "STREAMS", "of-others", "0"),
    ("SSCAN", "of-others", "0"),
    ("EVAL", READ, "0", "GET", "of-others"),
    ("EVAL", READ, "1", "of-others", "GET", "of-others"),
    ("EVAL", READ, "0", "CONFIG", "GET", "requirepass"),
    ("EVAL", READ, "0", "ACL", "LIST"),
)


@pytest.mark.errors
@pytest.mark.parametrize("name", [*USES, "all"])
async def test_no_printed_line_opens_more_than_a_part(own, admin, name):
    """Its user reads no secret, sees no key of others and becomes nobody else."""
    parts = acl.COMPONENTS if name == "all" else [acl.component(name)]
    await make_user(admin, acl.rules(parts, PREFIX))
    await admin.set("of-others", "secret")
    url = f"redis://part:pw@127.0.0.1:{own.port}"
    async with Redis.from_url(url, protocol=3) as user:
        for call in OF_OTHERS:
            with pytest.raises(RedisError, match=r"(?i)perm|acl|not allowed"):
                await user.execute_command(*call)
        # CLIENT TRACKING without BCAST would be a way too.
        with pytest.raises(RedisError, match=r"(?i)perm"):
            await user.execute_command("CLIENT", "TRACKING", "ON")
    assert await admin.get("of-others") == b"secret"


@pytest.mark.integration
@pytest.mark.parametrize(
    "program",
    [
        None,
        pytest.param(
            "redis-server",
            marks=pytest.mark.system("redis-server", package="redis-server"),
        ),
    ],
    indirect=True,
)
async def test_the_privilege_check_knows_what_the_server_calls_dangerous(admin):
    """Each command of the server's own categories is found, unless a part needs it."""
    theirs = set()
    for category in acl.CATEGORIES:
        found = await admin.execute_command("ACL CAT", category)
        theirs |= set(found)
    theirs -= acl.needed()
    assert theirs <= set(acl.DANGEROUS)
    assert not acl.needed() & set(acl.DANGEROUS)
    table = await CommandTable.of(admin, acl.DANGEROUS)
    known = [name for name in acl.DANGEROUS if table.knows(name)]
    for name in known:
        await admin.execute_command(
            "ACL SETUSER", "part", "reset", "on", "-@all", "~*", "&*", f"+{name}"
        )
        assert await allowed(admin, "part", acl.DANGEROUS, table) == (name,)


@pytest.mark.integration
@pytest.mark.parametrize("name", USES)
async def test_no_entry_has_more_than_its_part_sends(own, admin, name):
    """Without any one of its commands the part is refused it: no entry is padded."""
    part = acl.component(name)
    url = f"redis://part:pw@127.0.0.1:{own.port}"
    spared = set()
    for command in (*part.commands, *part.optional, *part.revealing):
        rules = acl.rules([part], PREFIX, without=[command], revealing=True)
        await make_user(admin, rules)
        with suppress(OddswireError, AssertionError, TimeoutError, ValueError):
            await USES[name](url, PREFIX)
        if command not in await refused(admin):
            spared.add(command)
    assert spared <= ANYBODY


@pytest.mark.integration
async def test_dry_run_agrees(admin, names):
    """By the server's own judgement each user may do what it needs, nothing worse."""
    table = await CommandTable.of(admin, names)
    for part in acl.COMPONENTS:
        await make_user(admin, acl.rules([part], PREFIX))
        assert await denied(admin, "part", part, table, PREFIX) == ()
        assert await allowed(admin, "part", acl.DANGEROUS, table) == ()
    for one in acl.COMPONENTS:
        await make_user(admin, acl.rules([one], PREFIX))
        for other in acl.COMPONENTS:
            needs = {*other.commands, *other.optional}
            lacks = needs - set(acl.commands([one])) - ANYBODY
            for patterns in (acl.key_patterns, acl.channel_patterns):
                lacks |= {*patterns([other], PREFIX)} - {*patterns([one], PREFIX)}
            found = await denied(admin, "part", other, table, PREFIX)
            assert bool(found) == bool(lacks)


@pytest.mark.integration
async def test_keys_and_channels_are_fenced(own, admin):
    """A user of some families reaches their keys and channels, and no others."""
    part = acl.Component(
        name="made-up",
        commands=("get", "set", "mset", "evalsha", "publish", "psubscribe"),
        families=(SESSION, LOCK),
        channels=(TOPIC,),
    )
    table = await CommandTable.of(admin, part.commands)
    await make_user(admin, acl.rules([part], PREFIX))
    assert await denied(admin, "part", part, table, PREFIX) == ()
    elsewhere = msgspec.structs.replace(part, families=(RATE_LIMIT,), channels=())
    assert len(await denied(admin, "part", elsewhere, table, PREFIX)) > 0
    # The same families of another deployment on the server.
    found = await denied(admin, "part", part, table, "other:")
    assert found == (
        "access the 'other:session:{s:1' key",
        "access the 'other:lock:1' key",
        "access the 'other:topic:1' channel",
        "access the 'other:topic:*' channel",
    )
    assert await allowed(admin, "part", ["get", "publish"], table) == ()


@pytest.mark.advanced
@given(
    families=st.sets(st.sampled_from(FAMILIES)),
    commands=st.sets(st.from_regex(r"[a-z]{1,9}(\|[a-z]{1,9})?", fullmatch=True)),
    without=st.sets(st.sampled_from(["info", "ping", "get"])),
)
def test_rules_grant_what_is_listed(families, commands, without):
    """Rules begin from nothing, and each grants one listed thing exactly once."""
    part = acl.Component(name="x", commands=tuple(commands), families=tuple(families))
    rules = acl.rules([part, part], PREFIX, without=without)

    assert rules[:4] == ("resetkeys", "resetchannels", "clearselectors", "-@all")
    granted = [rule[1:] for rule in rules[4:] if rule[0] == "+"]
    assert sorted(granted) == sorted(set(acl.commands([part])) - without)
    withheld = acl.Component(
        name="y", commands=("x",), revealing=("scan",), administering=("config|get",)
    )
    for revealing in (False, True):
        rules = acl.rules([withheld], PREFIX, revealing=revealing)
        assert ("+scan" in rules) == revealing
        assert "+config|get" not in rules
    rules = acl.rules([part, part], PREFIX, without=without)
    keys = [rule for rule in rules if rule[0] == "~"]
    assert len(keys) == len(set(keys)) == len(families)
    assert all(key.startswith(f"~{PREFIX}") for key in keys)
    # No rule is wider than a list: no category, no "all keys".
    assert not {"~*", "&*", "allkeys", "allchannels", "allcommands"} & set(rules)
    assert not any(rule.startswith("+@") for rule in rules)


@pytest.mark.errors
def test_a_wrong_name_or_prefix_is_refused():
    """An unknown part names the known ones; a prefix that opens everything is none."""
    with pytest.raises(SettingsError, match="there are client, "):
        acl.component("nope")
    part = acl.Component(name="x", commands=(), families=(SESSION,))
    for prefix in ("", "*", "a", "a b:", "a*:"):
        with pytest.raises(InvalidKey):
            acl.rules([part], prefix)


@pytest.mark.integration
@pytest.mark.system("redis-server", package="redis-server")
async def test_an_older_server_takes_what_is_printed_for_it():
    """A command that the server lacks is left out: with it, all would be refused."""
    old = EmbeddedServer(binary=shutil.which("redis-server"))
    async with old, Client.from_url(old.url) as admin:
        table = await CommandTable.of(admin, acl.commands(acl.COMPONENTS))
        assert table.missing() == ("client|setinfo",)
        with pytest.raises(OddswireError, match="client\\|setinfo"):
            await make_user(admin, acl.rules(acl.COMPONENTS, PREFIX))
        rules = acl.rules(
            acl.COMPONENTS, PREFIX, without=table.missing(), revealing=True
        )
        await make_user(admin, rules)
        url = f"redis://part:pw@127.0.0.1:{old.port}"
        for use in USES.values():
            await use(url, PREFIX)
        assert await refused(admin) == {"config|get"}
        for part in acl.COMPONENTS:
            only = acl.rules([part], PREFIX, without=table.missing(), revealing=True)
            await make_user(admin, only)
            await USES[part.name](url, PREFIX)
            assert await refused(admin) == set(part.administering)
