from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.errors import SettingsError
from oddswire.web.guard import Guard, check_address, client_address, limit_key

GUARD = Guard(port=8000)
PUBLIC = Guard(port=443, names=("bot.example",), scheme="https")


@pytest.mark.basic
@pytest.mark.requirement("X1", "X4")
@pytest.mark.parametrize(
    ("guard", "host", "origin", "site"),
    [
        (GUARD, "127.0.0.1:8000", None, None),
        (GUARD, "localhost:8000", "http://localhost:8000", "same-origin"),
        (GUARD, "LOCALHOST:8000", "http://127.0.0.1:8000", None),
        (GUARD, "[::1]:8000", "http://[::1]:8000", "none"),
        (PUBLIC, "bot.example", None, None),
        (PUBLIC, "bot.example:443", "https://bot.example", "same-origin"),
    ],
)
def test_programs_and_its_own_pages_are_answered(guard, host, origin, site):
    """Its names with its port, its own origin, and no header of a browser at all."""
    given_ = ([each] if each else [] for each in (host, origin, site))
    assert guard.refuses(*given_) is None


@pytest.mark.errors
@pytest.mark.requirement("X1", "X4")
@pytest.mark.parametrize(
    ("hosts", "origins", "sites", "status"),
    [
        ([], [], [], 421),
        (["evil.example"], [], [], 421),
        (["evil.example:8000"], [], [], 421),
        (["127.0.0.1"], [], [], 421),
        (["127.0.0.1:8001"], [], [], 421),
        (["127.0.0.1:8000\n"], [], [], 421),
        (["127.0.0.1:8000", "127.0.0.1:8000"], [], [], 421),
        (["127.0.0.1.evil.example:8000"], [], [], 421),
        (["localhost.:8000"], [], [], 421),
        (["user@localhost:8000"], [], [], 421),
        (["0:8000"], [], [], 421),
        ([""], [], [], 421),
        (["localhost:8000"], ["http://evil.example"], [], 403),
        (["localhost:8000"], ["null"], [], 403),
        (["localhost:8000"], [""], [], 403),
        (["localhost:8000"], ["https://localhost:8000"], [], 403),
        (["localhost:8000"], ["http://localhost:3000"], [], 403),
        (["localhost:8000"], ["http://localhost:8000.evil.example"], [], 403),
        (["localhost:8000"], ["http://localhost:8000/x"], [], 403),
        (["localhost:8000"], ["http://localhost:8000"] * 2, [], 403),
        (["localhost:8000"], [], ["cross-site"], 403),
        (["localhost:8000"], ["http://localhost:8000"], ["cross-site"], 403),
        (["localhost:8000"], [], ["same-site"], 403),
    ],
)
def test_another_host_or_a_page_of_another_site_is_refused(
    hosts, origins, sites, status
):
    """One right Host, an origin that is ours or none, and no page of another site."""
    refusal = GUARD.refuses(hosts, origins, sites)
    assert refusal.status == status
    assert "evil" not in refusal.reason


@pytest.mark.errors
@pytest.mark.requirement("X4")
@given(host=st.text(), origin=st.text(), site=st.text())
def test_any_header_is_an_answer_or_a_refusal(host, origin, site):
    """No header raises, and only the few right hosts pass."""
    assert GUARD.refuses([host]) is None or host.lower() not in {
        f"{name}:8000" for name in GUARD.names
    }
    assert GUARD.refuses(["localhost:8000"], [f"http://{origin}"]) or True
    GUARD.refuses([host], [origin], [site])


@pytest.mark.errors
@pytest.mark.requirement("X1")
def test_nothing_listens_to_strangers_without_a_token():
    """Another address than this machine's wants a token or mutual TLS."""
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.8.9.1"):
        check_address(host)
    for host in ("0.0.0.0", "::", "", "10.0.0.1", "bot.example"):
        with pytest.raises(SettingsError, match="set a token"):
            check_address(host)
        check_address(host, token=True)
        check_address(host, mutual_tls=True)


@pytest.mark.errors
@pytest.mark.requirement("X1", "X4")
@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("1.2.3.4", [], "1.2.3.4"),
        ("1.2.3.4", ["9.9.9.9"], "1.2.3.4"),
        ("10.0.0.1", ["9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", ["6.6.6.6, 9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", ["6.6.6.6", "9.9.9.9, 10.0.0.2"], "9.9.9.9"),
        ("10.0.0.1", ["junk"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, junk"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("2001:db8::1", ["9.9.9.9"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", ["9.9.9.9, ::ffff:10.0.0.2"], "9.9.9.9"),
    ],
)
def test_a_client_does_not_choose_its_own_address(peer, forwarded, client):
    """Forwarded headers count from listed proxies only, from the right."""
    assert client_address(peer, forwarded, ("10.0.0.0/8",)) == client


@pytest.mark.basic
@pytest.mark.requirement("X4")
def test_addresses_of_one_client_count_together():
    """IPv6 is counted by /64 and /48; what is no address is one client."""
    assert limit_key("1.2.3.4") == limit_key("::ffff:1.2.3.4") == ("1.2.3.4",)
    one, two = limit_key("2001:db8:1:2::1"), limit_key("[2001:db8:1:2:ffff::9%eth0]")
    assert one == two == ("2001:db8:1:2::/64", "2001:db8:1::/48")
    assert limit_key("junk") == ("unknown",)
