"""`Guard`: which requests a listener answers. No input or output.

A loopback address keeps no web page out: each page that is open in a browser on this
machine can send requests to it. The headers Origin and Sec-Fetch-Site show a page of
another site. The header Host shows a page whose own name leads to this address (DNS
rebinding).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

import msgspec

from oddswire.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
# A name or an address, and a port. \Z is the very end: `$` allows a newline after it.
_HOST = re.compile(
    r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?\Z"
)
_ORIGIN = re.compile(r"(https?)://(.+)\Z")
_DEFAULT = {"http": 80, "https": 443}
_OURS = frozenset({"same-origin", "none"})


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not answered.

    Attributes:
        status: The HTTP status.
        reason: One line that repeats nothing of the request.
    """

    status: int
    reason: str


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """The address of a listener, as browsers write it.

    Attributes:
        port: The port that they connect to.
        names: The host names and addresses, without a port.
        scheme: ``http`` or ``https``.
    """

    port: int
    names: tuple[str, ...] = LOOPBACK
    scheme: str = "http"

    def refuses(
        self,
        hosts: Sequence[str],
        origins: Sequence[str] = (),
        sites: Sequence[str] = (),
    ) -> Refusal | None:
        """Return why a request is refused; None when it is answered.

        Args:
            hosts: Each value of the header Host.
            origins: Each value of Origin.
            sites: Each value of Sec-Fetch-Site.
        """
        if len(hosts) != 1 or not self._is_ours(hosts[0], self.scheme):
            return Refusal(421, "this is another host")
        for origin in origins:
            match = _ORIGIN.match(origin)
            if (
                len(origins) > 1
                or match is None
                or not self._is_ours(match[2], match[1])
            ):
                return Refusal(403, "a page of another site")
        if any(site not in _OURS for site in sites):
            return Refusal(403, "a page of another site")
        return None

    def _is_ours(self, host: str, scheme: str) -> bool:
        match = _HOST.match(host)
        if match is None or match[1].lower() not in self.names:
            return False
        port = int(match[2]) if match[2] else _DEFAULT[scheme]
        return port == self.port and scheme == self.scheme


def check_address(host: str, *, token: bool = False, mutual_tls: bool = False) -> None:
    """Refuse an address that other machines reach, unless something keeps them out.

    Raises:
        SettingsError: The address is not loopback, and there is neither a token nor
            mutual TLS.
    """
    try:
        local = ip_address(host.strip("[]")).is_loopback
    except ValueError:
        local = host == "localhost"
    if not (local or token or mutual_tls):
        raise SettingsError(
            f"{host!r} is reached from other machines: set a token, or listen on "
            "127.0.0.1"
        )


def client_address(
    peer: str, forwarded: Sequence[str] = (), trusted: Collection[str] = ()
) -> str:
    """Return the client's address: the peer's, or the one that a trusted proxy reports.

    Args:
        peer: The address at the other end of the socket.
        forwarded: The values of X-Forwarded-For, in their order.
        trusted: The networks of the trusted proxies, such as ``10.0.0.0/8``.

    Returns:
        The right-most address that is no trusted proxy. The addresses left of it are
        the client's own claim.
    """
    networks = [ip_network(each) for each in trusted]
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    address = peer
    while hops and _within(address, networks):
        hop = hops.pop()
        if _address(hop) is None:
            break  # no address: the proxy is the last hop that is known
        address = hop
    return address


def limit_key(address: str) -> tuple[str, ...]:
    """Return the networks under which an address is counted, the smallest first.

    An IPv6 client owns a /64 at least, and often a /48.
    """
    found = _address(address)
    if isinstance(found, IPv6Address):
        return tuple(
            str(ip_network(f"{found}/{bits}", strict=False)) for bits in (64, 48)
        )
    return (str(found or "unknown"),)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    # A socket of both families shows an IPv4 client as ::ffff:10.0.0.1.
    return getattr(found, "ipv4_mapped", None) or found


def _within(address: str, networks: Sequence[object]) -> bool:
    found = _address(address)
    return found is not None and any(found in each for each in networks)  # type: ignore[operator]
