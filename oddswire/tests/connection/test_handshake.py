"""The first commands on a connection: all of them or none."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.credentials import CredentialProvider

from oddswire import Client, EmbeddedServer
from oddswire.connection.errors import reply_error
from oddswire.connection.handshake import HandshakeOptions, accept
from oddswire.errors import AuthFailed, NoPermission, Outcome, Unavailable
from oddswire.testing import LoopLag

WORDS = st.text(min_size=1, max_size=8)
HELLOS = st.builds(
    HandshakeOptions,
    protocol=st.sampled_from([2, 3]),
    username=st.none() | WORDS,
    password=st.none() | st.text(max_size=8),
    database=st.integers(0, 20),
    client_name=st.none() | WORDS,
    on_connect=st.just(()) | st.just((("CLIENT", "TRACKING", "ON"),)),
    library=st.none() | st.tuples(WORDS, WORDS),
)
REFUSALS = st.sampled_from(
    [
        "ERR no",
        "NOPERM this user has no permissions",
        "LOADING data set in memory",
        "WRONGPASS invalid username-password pair",
        "NOAUTH Authentication required.",
        "ERR max number of clients reached",
        "ERR unknown command 'HELLO'",
        "BUSY script",
    ]
).map(reply_error)
GREETING = {b"server": b"valkey", b"version": b"9.1.2", b"id": 5, b"role": b"master"}


# What a connection can do without, if it is not the password that is missing.
DISPENSABLE = ("PING", "SETNAME", "SETINFO")


@pytest.mark.advanced
@given(HELLOS, st.data())
def test_every_refusal_of_what_matters_is_an_error(options, data):
    """A connection counts as open only when all that matters was accepted."""
    commands = options.commands()
    replies = [b"OK"] * len(commands)
    if options.protocol == 3:
        replies[0] = GREETING
    refused = data.draw(st.sets(st.integers(0, len(commands) - 1)))
    for position in refused:
        replies[position] = data.draw(REFUSALS)
    matter = {
        n
        for n in refused
        if not any(word in DISPENSABLE for word in commands[n][:2])
        or isinstance(replies[n], AuthFailed | Unavailable)
    }

    if matter:
        with pytest.raises((Unavailable, AuthFailed, NoPermission)):
            accept(options, replies, "here:1")
    else:
        told = accept(options, replies, "here:1")
        assert told.address == "here:1"
        assert (told.role, told.connection_id) == (
            ("master", 5) if options.protocol == 3 else ("", 0)
        )


@pytest.mark.advanced
@given(HELLOS)
def test_commands_say_all_and_nothing_else(options):
    """Credentials come first; HELLO only with RESP3; the database if it is not 0."""
    first, *rest = options.commands()

    if options.protocol == 3:
        assert first[:2] == ("HELLO", 3)
        assert ("AUTH" in first[2:4]) == (options.password is not None)
        if options.password is not None:
            assert first[3:5] == (options.username or "default", options.password)
    else:
        assert all(command[0] != "HELLO" for command in (first, *rest))
        assert (first[0] == "AUTH") == (options.password is not None)
        if options.password is not None:
            assert first[-1] == options.password
            assert first[1:-1] in {(), (options.username,)}
    assert (("SELECT", options.database) in rest) == bool(options.database)
    assert set(options.on_connect) <= set(rest)


@pytest.mark.parametrize(
    ("said", "kind", "outcome", "text"),
    [
        ("WRONGPASS no", AuthFailed, Outcome.REJECTED, "check the password and"),
        ("NOAUTH no", AuthFailed, Outcome.REJECTED, "REDIS_PASSWORD"),
        ("NOPERM no", NoPermission, Outcome.REJECTED, "no"),
        ("ERR unknown command `HELLO`", Unavailable, Outcome.REJECTED, "protocol=2"),
        ("NOPROTO no", Unavailable, Outcome.REJECTED, "protocol=2"),
        (
            "DENIED Redis is running in protected mode",
            Unavailable,
            Outcome.REJECTED,
            "in",
        ),
        ("ERR max number of clients reached", Unavailable, Outcome.NOT_SENT, "max"),
        ("LOADING wait", Unavailable, Outcome.NOT_SENT, "wait"),
    ],
)
@pytest.mark.errors
def test_refusals_say_what_to_do_and_whether_it_will_pass(said, kind, outcome, text):
    """What will pass is told from what will not, and the message says what to do."""
    options = HandshakeOptions(password=None if "NOAUTH" in said else "secret")
    with pytest.raises(kind) as caught:
        accept(options, [reply_error(said)], "here:1")

    assert caught.value.outcome is outcome
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


# --- on a real server


async def _whoami(client):
    async with client:
        shared = await client.execute_command("ACL WHOAMI")
        database = (await client.client_info())["db"]
        await client.blpop("absent", 0.001)
        own = client.client()
        async with own:
            exclusive = await own.execute_command("ACL WHOAMI")
        return shared, exclusive, int(database)


@pytest.mark.requirement("C1")
@pytest.mark.integration
async def test_password_user_database_and_socket(server, prefix):
    """Each way to say where and who leads there, on every kind of connection."""
    user, password = f"{prefix}bob", "p@ss:w/ord?%41"
    async with Client.from_url(server.url) as admin:
        await admin.acl_setuser(
            user,
            enabled=True,
            passwords=[f"+{password}"],
            keys=["*"],
            commands=["+@all"],
        )
    quoted = "p%40ss%3Aw%2Ford%3F%2541"
    name = user.replace(":", "%3A")
    by_tcp = f"redis://{name}:{quoted}@{server.host}:{server.port}/3"
    by_socket = f"unix://{name}:{quoted}@{server.unix_socket}?db=3"
    bare = f"redis://{server.host}:{server.port}"
    found = [
        await _whoami(Client.from_url(by_tcp)),
        await _whoami(Client.from_url(by_socket)),
        await _whoami(
            Client.from_url(bare, username=user, password=password, database=3)
        ),
        await _whoami(
            Client(
                host=server.host,
                port=server.port,
                username=user,
                password=password,
                db=3,
            )
        ),
        await _whoami(
            Client(
                unix_socket_path=str(server.unix_socket),
                username=user,
                password=password,
                db=3,
            )
        ),
    ]
    async with Client.from_url(server.url) as admin:
        await admin.acl_deluser(user)

    assert found == [(user, user, 3)] * 5


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"password": "wrong-secret"}, AuthFailed, "check the password"),
        ({"username": "nobody", "password": "wrong-secret"}, AuthFailed, "'nobody'"),
        ({}, AuthFailed, "REDIS_PASSWORD"),
        ({"database": 99_999}, Unavailable, "database 99999 cannot be selected"),
    ],
    ids=["password", "user", "no password", "database"],
)
@pytest.mark.requirement("C1")
@pytest.mark.errors
async def test_wrong_credentials_fail_at_once(server, change, kind, text):
    """What the server refuses fails at once, typed, with the fix and no secret."""
    if "database" in change:
        change = {**change, "password": server.password}
    client = Client.from_url(f"redis://{server.host}:{server.port}", **change)
    with LoopLag() as lag, pytest.raises(kind) as caught:
        await client.get("a")

    assert lag.free < 1.0
    assert caught.value.outcome is Outcome.REJECTED
    assert text in str(caught.value)
    assert "wrong-secret" not in str(caught.value)
    assert server.password not in str(caught.value)
    await client.aclose()


@pytest.mark.requirement("C1")
@pytest.mark.errors
async def test_refused_password_is_tried_once():
    """A hundred callers with a wrong password make one attempt."""
    async with EmbeddedServer() as server:
        bare = f"redis://{server.host}:{server.port}"
        client = Client.from_url(bare, password="wrong", retries=5)
        failures = await asyncio.gather(
            *(client.get("a") for _ in range(100)), return_exceptions=True
        )
        failures += [await _failure(client.get("a")) for _ in range(10)]
        async with Client.from_url(server.url) as admin:
            attempts = (await admin.info("stats"))["acl_access_denied_auth"]
        await client.aclose()

    assert {type(failure) for failure in failures} == {AuthFailed}
    assert attempts == 1


async def _failure(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the caller looks at it
        await call
    return caught.value


class Provider(CredentialProvider):
    """Credentials that the test decides, each time they are asked for."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0
        self.waiting = asyncio.Event()
        self.release = asyncio.Event()

    def get_credentials(self):
        """Fail the test: asyncio clients ask the asynchronous one."""
        raise AssertionError("get_credentials was called by an asyncio client")

    async def get_credentials_async(self):
        """Return the next answer or raise it; None: wait to be released first."""
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            self.waiting.set()
            await self.release.wait()
            answer = self.answers[-1]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.errors
async def test_credentials_that_rotate_are_read_when_needed():
    """A handshake whose credentials were rotated asks again, and costs no call."""
    async with EmbeddedServer() as server:
        provider = Provider(("default", "old"), ("default", server.password))
        client = Client(
            host=server.host, port=server.port, credential_provider=provider
        )
        assert await client.ping()
        assert provider.asked == 2
        await client.aclose()


@pytest.mark.errors
async def test_provider_of_credentials_that_fails_is_asked_with_pauses(server):
    """A provider's exception is a failed attempt, not a busy loop."""
    provider = Provider(KeyError("vault is away"))
    client = Client(
        host=server.host,
        port=server.port,
        credential_provider=provider,
        command_timeout=0.5,
    )
    with pytest.raises(Unavailable, match="KeyError: 'vault is away'") as caught:
        await client.ping()

    assert caught.value.outcome is Outcome.NOT_SENT
    assert 2 <= provider.asked < 10
    await client.aclose()


@pytest.mark.errors
async def test_cancelled_while_credentials_are_fetched_is_nobody_else():
    """A caller cancelled in the handshake leaves no half-authenticated connection."""
    async with EmbeddedServer() as server:
        async with Client.from_url(server.url) as admin:
            await admin.acl_setuser(
                "bob", enabled=True, nopass=True, keys=["*"], commands=["+@all"]
            )
        provider = Provider(None, ("bob", "any"))
        client = Client(
            host=server.host, port=server.port, credential_provider=provider
        )
        calls = [
            asyncio.get_running_loop().create_task(call)
            for call in (client.get("a"), client.blpop("a", 1))
        ]
        await provider.waiting.wait()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        provider.release.set()
        shared = await client.execute_command("ACL WHOAMI")
        async with client.client() as own:
            exclusive = await own.execute_command("ACL WHOAMI")
        users = {entry["user"] for entry in await client.client_list()}
        await client.aclose()

    assert all(call.cancelled() for call in calls)
    assert (shared, exclusive, users) == ("bob", "bob", {"bob"})


@pytest.mark.parametrize(
    "answer",
    [b"", b"-WRONGPASS no\r\n", b"-ERR no\r\n", b"garbage\r\n", b"%1\r\n$1\r\n"],
    ids=["silence", "password", "error", "garbage", "half"],
)
@pytest.mark.errors
async def test_handshake_that_fails_closes_the_socket(peer, answer):
    """A connection whose handshake fails is closed, and nobody sees it."""
    client = Client(
        host="127.0.0.1",
        port=peer.port,
        password="secret",
        connect_timeout=0.2,
        command_timeout=0.3,
    )
    call = asyncio.get_running_loop().create_task(client.get("a"))
    line = await peer.line()
    line.say(answer)
    sent = await line.ended()
    with pytest.raises((Unavailable, AuthFailed)) as caught:
        await call

    assert b"GET" not in sent
    assert "secret" not in str(caught.value)
    await client.aclose()


@pytest.mark.errors
async def test_refused_database_closes_the_socket(peer):
    """A connection on which SELECT was refused serves nobody."""
    client = Client(host="127.0.0.1", port=peer.port, protocol=3, db=5)
    call = asyncio.get_running_loop().create_task(client.get("a"))
    line = await peer.line()
    await line.greet()
    line.say(b"-ERR DB index is out of range\r\n$-1\r\n")
    assert b"GET" not in await line.ended()
    with pytest.raises(Unavailable, match="database 5 cannot be selected"):
        await call
    await client.aclose()


@pytest.mark.errors
async def test_closed_while_connecting(peer):
    """Closing during the handshake ends the attempt and tells who waits for it."""
    from oddswire.errors import ClosedError

    client = Client(host="127.0.0.1", port=peer.port, protocol=3)
    call = asyncio.get_running_loop().create_task(client.get("a"))
    line = await peer.line()
    await client.aclose()
    with pytest.raises(ClosedError):
        await call
    await line.ended()


@pytest.mark.requirement("C4")
@pytest.mark.errors
async def test_accepting_and_silent_server_is_bounded_by_the_connect_timeout(peer):
    """The connect timeout covers the handshake; the error says what to look at."""
    client = Client(
        host="127.0.0.1",
        port=peer.port,
        protocol=3,
        connect_timeout=0.1,
        command_timeout=0.4,
    )
    with (
        LoopLag() as lag,
        pytest.raises(Unavailable, match="stays silent; if it wants TLS") as caught,
    ):
        await client.get("a")

    assert lag.free < 0.4 * 1.1 + 0.1
    assert caught.value.outcome is Outcome.NOT_SENT
    await client.aclose()


@pytest.mark.errors
async def test_plaintext_server_behind_a_tls_url_is_named(server):
    """rediss:// to a server that speaks plaintext fails with that hint."""
    client = Client.from_url(
        f"rediss://{server.host}:{server.port}",
        connect_timeout=0.6,
        command_timeout=15.0,
        reconnect_attempts=1,  # what it failed with is told at once
    )
    with pytest.raises(Unavailable, match=r"use redis://|speak TLS"):
        await client.get("a")
    await client.aclose()


@pytest.mark.errors
async def test_certificate_files_that_are_not_there(server, tmp_path):
    """A missing certificate file fails at once and names it."""
    client = Client.from_url(
        f"rediss://{server.host}:{server.port}",
        tls_ca_file=str(tmp_path / "no-such.pem"),
    )
    with (
        LoopLag() as lag,
        pytest.raises(Unavailable, match=r"no-such\.pem") as caught,
    ):
        await client.get("a")

    assert caught.value.outcome is Outcome.REJECTED
    assert lag.free < 1.0
    await client.aclose()
