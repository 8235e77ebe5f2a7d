"""Endpoints: what a URL says, and that it never says it in an error."""

from __future__ import annotations

import ipaddress
import traceback
from urllib.parse import quote

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from oddswire.errors import SettingsError
from oddswire.settings import Endpoint

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
HOSTS = st.one_of(
    st.sampled_from(["localhost", "redis", "cache-1.internal", "a.example.com"]),
    st.ip_addresses().map(str),
)
ENDPOINTS = st.builds(
    Endpoint,
    host=HOSTS,
    port=st.integers(1, 65535),
    tls=st.booleans(),
    username=st.none() | TEXT,
    password=st.none() | TEXT,
    database=st.none() | st.integers(0, 2**31 - 1),
)
SOCKETS = st.builds(
    Endpoint,
    path=TEXT.filter(lambda text: text.strip("/")).map(lambda text: f"/{text}"),
    username=st.none() | TEXT,
    password=st.none() | TEXT,
    database=st.none() | st.integers(0, 15),
)


@pytest.mark.basic
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", Endpoint(host="localhost")),
        ("redis://localhost/", Endpoint(host="localhost")),
        ("REDIS://localhost:7000", Endpoint(host="localhost", port=7000)),
        ("rediss://h:1/3", Endpoint(host="h", port=1, tls=True, database=3)),
        ("redis://h?db=3", Endpoint(host="h", database=3)),
        ("redis://h/3?db=3", Endpoint(host="h", database=3)),
        ("redis://:pw@h", Endpoint(host="h", password="pw")),
        ("redis://me@h", Endpoint(host="h", username="me")),
        ("redis://me:p%40%2F%3A@h", Endpoint(host="h", username="me", password="p@/:")),
        ("redis://:a@b@h", Endpoint(host="h", password="a@b")),
        ("redis://:%C3%A9@h", Endpoint(host="h", password="é")),
        ("redis://[::1]:7000/1", Endpoint(host="::1", port=7000, database=1)),
        ("redis://[fe80::1%25eth0]", Endpoint(host="fe80::1%eth0")),
        ("redis://10.0.0.1", Endpoint(host="10.0.0.1")),
        ("redis://h.example.com.", Endpoint(host="h.example.com.")),
        ("unix:///run/r.sock", Endpoint(path="/run/r.sock")),
        ("valkey://h/1", Endpoint(host="h", database=1)),
        ("ValKeys://h", Endpoint(host="h", tls=True)),
        ("unix:///s?db=1&password=pw", Endpoint(path="/s", database=1, password="pw")),
        ("redis://:pw@h?password=pw", Endpoint(host="h", password="pw")),
        (
            "redis://h?protocol=3&client_name=a%20b",
            Endpoint(host="h", options=(("client_name", "a b"), ("protocol", "3"))),
        ),
        (
            "unix://me:pw@/run/a%20b?db=2",
            Endpoint(path="/run/a b", username="me", password="pw", database=2),
        ),
    ],
)
def test_urls_are_read(url, expected) -> None:
    """Each part of a URL is read, user and password percent-decoded."""
    assert Endpoint.from_url(url) == expected


@pytest.mark.errors
@pytest.mark.requirement("X3")
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "empty"),
        (" redis://CANARY", "white space"),
        ("redis://CANARY\n", "white space"),
        ("redis://a\tCANARY", "white space"),
        ("http://CANARY", "must begin with"),
        ("CANARY", "must begin with"),
        ("redis:CANARY", "must begin with"),
        ("redis://", "no host"),
        ("redis://:CANARY@", "no host"),
        ("redis:///0", "no host"),
        ("redis://:CAN/ARY@h", "%2F"),
        ("redis://:CAN?ARY@h", "%3F"),
        ("redis://:CAN#ARY@h", "%23"),
        ("redis://:CANARY%@h", "%25"),
        ("redis://:CANARY%zz@h", "%25"),
        ("redis://:CANARY%FF@h", "UTF-8"),
        ("redis://[CANARY]", "malformed"),
        ("redis://[::1", "malformed"),
        ("redis://[::1]CANARY", "brackets"),
        ("redis://h:CANARY", "port"),
        ("redis://h:", "port"),
        ("redis://h:0", "port"),
        ("redis://h:65536", "port"),
        ("redis://h:٣", "port"),
        ("redis://h/CANARY", "database"),
        ("redis://h/1/2", "database"),
        ("redis://h/-1", "database"),
        ("redis://h/2147483648", "database"),
        ("redis://h/1?db=2", "two databases"),
        ("redis://h?db=1&db=2", "?db="),
        ("redis://h?password=CANARY&password=CANARY", "?password= twice"),
        ("redis://:CANARY@h?password=CANARY2", "two passwords"),
        ("redis://:CAN?ARY=1@h", "%3F"),
        ("redis://h?socket_timeout=CANARY", "socket_timeout must be seconds"),
        ("redis://h?CANARY", "?db="),
        ("redis://h?db=", "database"),
        ("redis://CANARY CANARY", "white space"),
        ("redis://CAN!ARY", "host name"),
        ("redis://-h", "host name"),
        ("redis://a..b", "host name"),
        ("redis://256.1.1.1", "IPv4"),
        ("redis://134744072", "IPv4"),
        ("redis://8.8", "IPv4"),
        ("redis://0x8080808", "IPv4"),
        ("redis://1.2.3.0x4", "IPv4"),
        ("unix://CANARY/run/r.sock", "three slashes"),
        ("unix://run", "three slashes"),
        ("unix:///", "path"),
        ("unix://", "path"),
        ("unix:///" + "a" * 107, "107"),
    ],
)
def test_malformed_urls_are_refused_without_repeating_them(url, says) -> None:
    """A wrong URL raises one line with the remedy, and no traceback repeats it."""
    with pytest.raises(SettingsError) as caught:
        Endpoint.from_url(url)
    text = "".join(traceback.format_exception(caught.value))

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(piece in text for piece in ("CANARY", "CAN/", "CAN?", "CAN#"))


@pytest.mark.advanced
@given(st.one_of(ENDPOINTS, SOCKETS.filter(lambda e: len(e.path.encode()) < 108)))
@example(Endpoint(host="h", username="", password=""))
def test_an_endpoint_survives_its_url(endpoint) -> None:
    """What `url` writes, `from_url` reads: any user, password, host and database."""
    empty_is_none = {
        "username": endpoint.username or None,
        "password": endpoint.password or None,
    }
    read = Endpoint.from_url(endpoint.url)

    assert {name: getattr(read, name) for name in empty_is_none} == empty_is_none
    for name in ("host", "port", "path", "tls", "database"):
        assert getattr(read, name) == getattr(endpoint, name)


@pytest.mark.errors
@pytest.mark.requirement("X1")
@given(
    st.one_of(
        st.text(),
        st.text(st.sampled_from("redis:/@%#?[]=.0a")),
        st.text(st.sampled_from("0:/@%#?[]=.xdb")).map(lambda text: f"redis://{text}"),
        st.text(st.sampled_from("0:/@%#?[]=.xdb")).map(lambda text: f"unix://{text}"),
    )
)
def test_any_text_is_an_endpoint_or_a_settings_error(text) -> None:
    """No text raises anything else, and what is accepted survives its own URL."""
    try:
        endpoint = Endpoint.from_url(text)
    except SettingsError:
        return
    assert Endpoint.from_url(endpoint.url) == endpoint


@pytest.mark.errors
@pytest.mark.requirement("X3")
@given(TEXT, TEXT)
def test_who_we_are_is_never_shown(username, password) -> None:
    """`repr`, `safe_url` and `address` are the same whoever connects."""

    def shown(endpoint: Endpoint) -> tuple[object, ...]:
        return (
            repr(endpoint),
            str(endpoint),
            endpoint.safe_url,
            endpoint.__rich_repr__(),
        )

    one = Endpoint(host="h", username=username, password=password)
    other = Endpoint(host="h", username="someone", password="else")

    assert shown(one) == shown(other)
    assert one.address == "h:6379"
    assert one.safe_url == "redis://***@h:6379"


@pytest.mark.basic
@pytest.mark.requirement("G2")
@pytest.mark.parametrize(
    ("host", "reach"),
    [
        ("localhost", "local"),
        ("LOCALHOST.", "local"),
        ("a.localhost", "local"),
        ("127.0.0.1", "local"),
        ("127.9.9.9", "local"),
        ("::1", "local"),
        ("::ffff:127.0.0.1", "local"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.32.0.1", "public"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("169.254.1.1", "private"),
        ("0.0.0.0", "private"),
        ("fd00::1", "private"),
        ("fe80::1%eth0", "private"),
        ("::ffff:10.0.0.1", "private"),
        ("8.8.8.8", "public"),
        ("::ffff:8.8.8.8", "public"),
        ("2606:4700::1111", "public"),
        ("redis", "private"),
        ("redis.", "private"),
        ("db.internal", "private"),
        ("db.Home.Arpa", "private"),
        ("db.local.", "private"),
        ("db.prod.svc", "private"),
        ("internal", "private"),
        ("example.com", "public"),
        ("db.internal.example.com", "public"),
        ("notinternal.xyz", "public"),
        ("evillocal.mylocal", "public"),
    ],
)
def test_reach_is_judged_by_the_address(host, reach) -> None:
    """Loopback is local, unrouted addresses and names are private, others public."""
    assert Endpoint(host=host).reach == reach


@pytest.mark.basic
@pytest.mark.requirement("G2")
@pytest.mark.parametrize(
    ("host", "reach"),
    [
        ("localhost", "local"),
        ("LocalHost.", "local"),
        ("a.localhost", "public"),
        ("redis", "public"),
        ("db.internal", "public"),
        ("db.local", "public"),
        ("cache-1", "private"),
        ("CACHE-1.", "private"),
        ("a.prod.svc", "private"),
        ("prod.svc", "public"),
        ("xprod.svc", "public"),
        ("10.0.0.1", "private"),
        ("::1", "local"),
        ("8.8.8.8", "public"),
        ("2002:808:808::1", "public"),
        ("2001:0:4136:e378:8000:63bf:f7f7:f7f7", "public"),
        ("64:ff9b::808:808", "public"),
        ("::ffff:8.8.8.8", "public"),
    ],
)
def test_no_name_is_private_that_nobody_declared(host, reach) -> None:
    """A name is private if it is declared; a tunnel's address leads where it leads."""
    declared = "cache-1, .prod.svc"

    assert Endpoint(host=host).reach_declared(declared) == reach
    if reach == "public":
        assert Endpoint(host=host).reach_declared(None) == "public"


@pytest.mark.basic
def test_a_socket_is_local() -> None:
    """Bytes to a unix socket stay on the machine."""
    assert Endpoint(path="/run/r.sock").reach == "local"


@pytest.mark.advanced
@pytest.mark.requirement("G2")
@given(st.ip_addresses(v=4))
def test_reach_agrees_with_the_standard_library(ip) -> None:
    """Of IPv4 addresses exactly the globally routed are public, mapped ones too."""
    public = ip.is_global and not ip.is_loopback
    mapped = ipaddress.IPv6Address(f"::ffff:{ip}")

    assert (Endpoint(host=str(ip)).reach == "public") == public
    assert Endpoint(host=str(mapped)).reach == Endpoint(host=str(ip)).reach


@pytest.mark.integration
@pytest.mark.requirement("C1")
def test_a_hostile_password_reaches_the_server(server, prefix) -> None:
    """An ACL user with every special character logs in by TCP and by socket."""
    name, password = prefix + "me@/%", "p@ss:/?#[]%25 é+&=%zz"
    with redis.Redis.from_url(server.url) as admin:
        admin.acl_setuser(name, enabled=True, passwords=[f"+{password}"],
                          commands=["+@all"], keys=["*"])  # fmt: skip
        try:
            who = f"{quote(name, safe='')}:{quote(password, safe='')}"
            by_tcp = f"redis://{who}@127.0.0.1:{server.port}/1"
            by_socket = f"unix://{who}@{server.unix_socket}?db=1"
            for at in (by_tcp, by_socket):
                endpoint = Endpoint.from_url(at)
                assert (endpoint.username, endpoint.password) == (name, password)
                with redis.Redis.from_url(endpoint.url) as client:
                    assert client.acl_whoami() == name
                    assert client.client_info()["db"] == 1
        finally:
            admin.acl_deluser(name)
