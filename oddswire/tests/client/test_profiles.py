"""What a profile forbids is refused however a server is named; sizes as redis-py's."""

from __future__ import annotations

import asyncio
import gc
import inspect

import pytest
import redis.asyncio as aredis
from redis.asyncio.sentinel import Sentinel

from oddswire import Client, Settings, SimpleClient
from oddswire.embedded import EmbeddedSentinels
from oddswire.errors import Outcome, PoolTimeout, SettingsError, Unavailable
from oddswire.testing import frozen

PRODUCTION = Settings(profile="production", url="unix:///run/none.sock")
PUBLIC = "db.example.com"


def _pool(url, **options):
    return aredis.ConnectionPool.from_url(url, **options)


@pytest.mark.errors
@pytest.mark.requirement("G2")
@pytest.mark.parametrize(
    "options",
    [
        {"host": PUBLIC},
        {"host": "8.8.8.8", "port": "6379"},
        {"host": "redis"},
        {"connection_pool": _pool(f"redis://{PUBLIC}")},
        {"connection_pool": aredis.BlockingConnectionPool(host=PUBLIC)},
        {"host": PUBLIC, "ssl": True, "ssl_cert_reqs": "none"},
        {"host": PUBLIC, "ssl": True, "ssl_check_hostname": False},
        {"connection_pool": _pool(f"rediss://{PUBLIC}?ssl_cert_reqs=none")},
        {"connection_pool": _pool(f"rediss://{PUBLIC}", ssl_check_hostname=False)},
        {
            "connection_pool": Sentinel([("8.8.8.8", 26379)])
            .master_for("m")
            .connection_pool
        },
    ],
)
def test_production_refuses_a_server_however_it_is_named(options):
    """redis-py's arguments and pools are judged as the settings' URL is."""
    with pytest.raises(SettingsError, match=r"plaintext|certificate is not"):
        Client(settings=PRODUCTION, **options)


@pytest.mark.basic
@pytest.mark.requirement("G2")
def test_production_takes_what_is_allowed():
    """A socket, this machine, a private address, a declared name, verified TLS."""
    for options in (
        {},
        {"host": "localhost"},
        {"host": "10.0.0.1"},
        {"host": "redis", "private_hosts": "redis"},
        {"host": PUBLIC, "ssl": True},
        {"connection_pool": _pool(f"rediss://{PUBLIC}")},
        {
            "connection_pool": Sentinel([("10.0.0.1", 26379)])
            .master_for("m")
            .connection_pool
        },
    ):
        assert Client(settings=PRODUCTION, **options).settings.profile == "production"


@pytest.mark.errors
@pytest.mark.requirement("G2")
@pytest.mark.system("redis-sentinel", package="redis-sentinel")
async def test_the_primary_that_the_sentinels_name_is_judged(own_group):
    """A private sentinel that names a public primary gets no plaintext there."""
    where = [(each.host, each.port) for each in own_group.sentinels]
    sentinel = Sentinel(
        where,
        sentinel_kwargs={"password": own_group.password},
        force_master_ip="8.8.8.8",
    )
    pool = sentinel.master_for(own_group.name).connection_pool
    async with Client(settings=PRODUCTION, connection_pool=pool) as client:
        with pytest.raises(Unavailable, match=r"8.8.8.8.*no plaintext") as caught:
            await client.get("k")
    assert caught.value.outcome is Outcome.REJECTED
    await pool.disconnect()
    for each in sentinel.sentinels:
        await each.aclose()


@pytest.mark.errors
@pytest.mark.requirement("C12")
@pytest.mark.system("redis-sentinel", package="redis-sentinel")
async def test_no_sentinel_is_asked_after_the_pool_was_disconnected(own_group):
    """A question that a silent sentinel leaves open ends with the caller's pool."""
    where = [(each.host, each.port) for each in own_group.sentinels]
    sentinel = Sentinel(where, sentinel_kwargs={"password": own_group.password})
    pool = sentinel.master_for(own_group.name, password=own_group.password)
    pool = pool.connection_pool
    with frozen(own_group.sentinels[2]):
        async with Client(connection_pool=pool) as client:
            assert await client.ping()
            assert "oddswire sentinel asked" in _tasks()
        await pool.disconnect()
        assert "oddswire sentinel asked" not in _tasks()
    for each in sentinel.sentinels:
        await each.aclose()


def _tasks():
    return {task.get_name() for task in asyncio.all_tasks()}


@pytest.mark.integration
@pytest.mark.requirement("C9", "G1")
@pytest.mark.system("redis-sentinel", package="redis-sentinel")
async def test_sentinels_and_primary_have_users_of_their_own(own_group):
    """Both users are in the settings; the default user of the sentinels is off."""
    group = own_group
    async with aredis.Redis.from_url(group.primary.url) as admin:
        await admin.acl_setuser("bot", enabled=True, passwords=["+bp"], keys=["*"],
                                channels=["*"], commands=["+@all"])  # fmt: skip
    for sentinel in group.sentinels:
        async with aredis.Redis.from_url(sentinel.url) as admin:
            rules = ["on", ">sp", "&*", "+@all"]
            await admin.execute_command("ACL", "SETUSER", "su", *rules)
            await admin.execute_command("ACL", "SETUSER", "default", "off")
    settings = Settings.from_env(
        {
            "REDIS_URL": f"redis://bot:bp@{group.name}/0",
            "ODDSWIRE_SENTINELS": ", ".join(
                f"{each.host}:{each.port}" for each in group.sentinels
            ),
            "ODDSWIRE_SENTINEL_USERNAME": "su",
            "ODDSWIRE_SENTINEL_PASSWORD": "sp",
        },
        None,
    )
    async with Client.from_settings(settings) as client:
        assert await client.set("k", "v")
        assert await client.blpop("none", timeout=0.01) is None
        assert await client.acl_whoami() == "bot"


@pytest.fixture
async def own_group():
    """Sentinels of the test's own, to give users to."""
    async with EmbeddedSentinels(replicas=1, sentinels=3) as group:
        yield group
    gc.collect()  # a connection that was left open warns, which is an error here


@pytest.mark.advanced
@pytest.mark.requirement("C15")
@pytest.mark.parametrize("by", ["argument", "url"])
async def test_sizes_are_redis_pys(server, by):
    """One connection serves commands and no more; two and 5,000 serve all."""
    for size in (1, 2, 5000):
        url, options = server.url, {"max_connections": size}
        if by == "url":
            url, options = f"{url}?max_connections={size}", {}
        async with Client.from_url(url, **options) as client:
            assert await client.ping()
            if size == 1:
                with pytest.raises(PoolTimeout, match="max_connections=1"):
                    await client.blpop("none", timeout=0.01)
            else:
                assert await client.blpop("none", timeout=0.01) is None
    for wrong in (-1, "x"):
        with pytest.raises(SettingsError, match="max_connections must be"):
            Client.from_url(server.url, max_connections=wrong)
    async with Client.from_url(
        server.url, max_connections=1, transport="pool"
    ) as client:
        assert await client.blpop("none", timeout=0.01) is None


def _arguments():
    """Return the names of redis-py's arguments: of the client and its connections."""
    takers = (aredis.Redis, aredis.Connection, aredis.SSLConnection)
    names = {
        name
        for kind in takers
        for base in kind.__mro__[:-1]
        for name in inspect.signature(base.__init__).parameters
    }
    others = {"self", "args", "kwargs", "host", "port", "password", "connection_pool"}
    return sorted(names - others)


@pytest.mark.basic
@pytest.mark.requirement("C15")
@pytest.mark.parametrize("absent", [None, ""], ids=["None", "empty"])
@pytest.mark.parametrize("by", ["url", "host"])
@pytest.mark.filterwarnings("ignore:Call to '__init__' function:DeprecationWarning")
async def test_none_and_empty_are_not_given(server, by, absent):
    """What a variable leaves unset or empty is as if it had not been given."""
    where = {"host": server.host, "port": server.port, "password": server.password}
    if by == "url":
        where = {"url": server.url}
    for name in _arguments():
        async with Client(**where, **{name: absent}) as client:
            assert await client.set("é", "é", ex=60)
            assert await client.blpop("none", timeout=0.01) is None


@pytest.mark.basic
@pytest.mark.requirement("C15")
@pytest.mark.parametrize("absent", [None, ""], ids=["None", "empty"])
async def test_none_and_empty_complete_no_url(server, absent):
    """A URL's own address and password stand when the arguments are unset or empty."""
    for name in ("host", "port", "password", "username", "db"):
        async with Client.from_url(server.url, **{name: absent}) as client:
            assert await client.ping()


@pytest.mark.errors
@pytest.mark.requirement("C15")
def test_every_option_that_is_none_is_taken_or_named():
    """None for a setting, or for an argument of our own, is an error that names it."""
    ours = [*Settings.__struct_fields__, *inspect.signature(Client).parameters]
    for name in ours:
        if name != "options":
            try:
                Client(**{name: None})
            except SettingsError as error:
                assert name in str(error)  # noqa: PT017 - most of them are taken


@pytest.mark.errors
@pytest.mark.requirement("C15")
@pytest.mark.parametrize(
    "name",
    [
        *("db", "port", "protocol", "socket_read_size", "socket_timeout"),
        *("socket_connect_timeout", "encoding", "encoding_errors", "encoder_class"),
        *("parser_class", "connection_class", "settings", "transport"),
    ],
)
def test_a_wrong_argument_of_redis_pys_is_named(name):
    """A value that redis-py would fail on later is a typed error that names it."""
    with pytest.raises(SettingsError, match=name):
        Client(**{name: "none of these"})


@pytest.mark.errors
@pytest.mark.parametrize("kind", [Client, SimpleClient])
async def test_a_field_beside_the_settings_counts(server, kind):
    """It takes the place of the field in the settings; a wrong one is an error."""
    settings = Settings(url=server.url, command_timeout=0.2)
    client = kind(settings=settings, command_timeout=5.0)
    try:
        assert await client.eval("for _ = 1, 3e7 do end return 1", 0) == 1
    finally:
        await client.aclose()
    with pytest.raises(SettingsError, match="command_timeout"):
        kind(settings=settings, command_timeout=-1)
    with pytest.raises(SettingsError, match="url="):
        kind(settings=server.url)
