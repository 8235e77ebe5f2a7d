"""What settings must satisfy together: pure decisions over a mapping of values."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from oddswire.settings.endpoint import Endpoint, addresses

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def endpoint_of(values: Mapping[str, Any]) -> Endpoint | None:
    """Return where `url` leads, completed by the fields that complete it.

    What the URL says stands; `conflicts` finds a field that says something else.
    """
    if values["url"] is None:
        return None
    endpoint = Endpoint.from_url(values["url"])
    return Endpoint(
        host=endpoint.host,
        port=endpoint.port,
        path=endpoint.path,
        tls=endpoint.tls,
        username=_first(endpoint.username, values["username"]),
        password=_first(endpoint.password, values["password"]),
        database=_first(endpoint.database, values["database"]),
        options=endpoint.options,
        seeds=endpoint.seeds,
    )


def _first(*candidates: Any) -> Any:
    return next((each for each in candidates if each is not None), None)


def problems(values: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    """Yield one line for each rule that is broken.

    Args:
        values: Values by field, each accepted by its own kind. A field whose value was
            not accepted is absent: a rule about it is not judged.
        names: What to call a field: its environment variable if it came from there.
    """
    yield from _orders(values, names)
    if "url" in values:
        yield from _conflicts(values, names)
    if "profile" in values:
        yield from _profile(values, names)
    yield from _keys(values, names)
    pair = ("tls_cert_file", "tls_key_file")
    if values.keys() >= set(pair):
        given = [field for field in pair if values[field] is not None]
        if len(given) == 1:
            missing = pair[given == [pair[0]]]
            yield f"{names[given[0]]} is set without {names[missing]}: set both"


def _orders(values: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    for low, high in (
        ("pool_min", "pool_max"),
        ("reconnect_delay", "reconnect_cap"),
    ):
        if values.keys() >= {low, high} and values[low] > values[high]:
            yield (
                f"{_with_value(low, values, names)} is above "
                f"{_with_value(high, values, names)}: change one of them"
            )


def _with_value(field: str, values: Mapping[str, Any], names: Mapping[str, str]) -> str:
    # The value has the field's unit, which the variable's may not be.
    value = f"{field}={values[field]:g}"
    return value if names[field] == field else f"{names[field]} ({value})"


def _conflicts(values: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    if values["url"] is None:
        return
    endpoint = Endpoint.from_url(values["url"])
    if endpoint.seeds:
        if values.get("sentinels") is not None:
            yield (
                f"{names['url']} is a cluster, whose nodes know their primaries, and "
                f"{names['sentinels']} is set: keep one"
            )
        if values.get("database"):
            yield f"{names['database']}: a cluster has the database 0 alone"
    elif values.get("read_from") == "replica":
        yield (
            f"{names['read_from']}: replicas of a cluster alone can be read, and "
            f"{names['url']} is not cluster://"
        )
    for field in ("username", "password", "database"):
        said, given = getattr(endpoint, field), values.get(field)
        if None not in (said, given) and said != given:
            yield (
                f"{names['url']} and {names[field]} name two different {field}s: "
                "give it in one of them"
            )


def _profile(values: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    profile = values["profile"]
    served = profile in ("staging", "production")
    if served and values.get("url", "") is None:
        yield (
            f"{names['url']} is not set and {profile} starts no server of its own: "
            "set it to rediss://user:password@host:6379/0"
        )
    if profile == "production":
        for field, endpoint in _addresses(values):
            if refused := plaintext_refused(
                endpoint, values.get("private_hosts"), names["private_hosts"]
            ):
                yield f"{names[field]}={endpoint.safe_url!r}: {refused}"
    if served:
        for field in ("tls_verify", "tls_check_hostname"):
            of_cache = _cache_options(values).get(field) is False
            if values.get(field) is False or of_cache:
                name = names["cache_url"] if of_cache else names[field]
                yield (
                    f"{name}: {profile} does not talk to a server whose certificate is "
                    "not checked: remove it, or trust your own authority with "
                    f"{names['tls_ca_file']}"
                )


def plaintext_refused(
    endpoint: Endpoint, private_hosts: str | None, name: str = "private_hosts"
) -> str | None:
    """Return why production sends no plaintext to an address; None: it may.

    Args:
        endpoint: The address.
        private_hosts: `Settings.private_hosts`.
        name: What to call that setting.
    """
    if endpoint.tls or endpoint.reach_declared(private_hosts) != "public":
        return None
    return (
        "production sends no plaintext to a public address: use rediss://, the private "
        f"address of the server, or declare its name private with {name}"
    )


def _addresses(values: Mapping[str, Any]) -> Iterator[tuple[str, Endpoint]]:
    """Yield every address that is connected to, with the field it is from."""
    sentinels = values.get("sentinels")
    tls = False
    if values.get("url") is not None:
        endpoint = Endpoint.from_url(values["url"])
        tls = endpoint.tls
        if sentinels is None:  # else its host is a name that the sentinels know
            for host, port in endpoint.seeds:
                yield "url", endpoint.at(host, port)
            if not endpoint.seeds:
                yield "url", endpoint
    for host, port in addresses(sentinels, 26379) if sentinels else ():
        yield "sentinels", Endpoint(host=host, port=port, tls=tls)
    if values.get("cache_url") is not None:
        endpoint = Endpoint.from_url(values["cache_url"])
        for host, port in endpoint.seeds:
            yield "cache_url", endpoint.at(host, port)
        if not endpoint.seeds:
            yield "cache_url", endpoint


def _cache_options(values: Mapping[str, Any]) -> dict[str, Any]:
    url = values.get("cache_url")
    return {} if url is None else Endpoint.from_url(url).fields


def _keys(values: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    if not values.keys() >= {"encryption_key", "encryption_key_file"}:
        return
    key, file = values["encryption_key"], values["encryption_key_file"]
    if key is not None and file is not None:
        yield (
            f"{names['encryption_key']} and {names['encryption_key_file']} are both "
            "set: keep one"
        )
    if values.get("session_encryption") and key is file is None:
        # In every profile: a setting that says encrypted must not write plain text.
        yield (
            f"{names['session_encryption']} asks for encryption and there is no key: "
            f"set {names['encryption_key_file']}"
        )
    if values.get("session_encryption") is False and not key is file is None:
        # A key that nothing is sealed with: plain text is written where somebody thinks
        # of sealed sessions.
        given = "encryption_key" if file is None else "encryption_key_file"
        yield (
            f"{names[given]} is set and nothing is sealed with it: set "
            f"{names['session_encryption']}, or remove the key"
        )
    served = values.get("profile") in ("staging", "production")
    if served and key is not None and is_example_key(key):
        yield (
            f"{names['encryption_key']} is an example, not a random key: "
            "make one with openssl rand -hex 32"
        )


def is_example_key(key: str) -> bool:
    """Whether 32 bytes in hexadecimal are ones that nobody drew at random.

    Few different bytes, an arithmetic sequence or readable text; a random key is taken
    for one less often than once in 10^10.
    """
    data = bytes.fromhex(key)
    steps = {(after - before) % 256 for before, after in pairwise(data)}
    text = all(0x20 <= byte < 0x7F for byte in data)
    return len(set(data)) < 16 or len(steps) == 1 or text


def warnings(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each thing that is allowed, and may surprise."""
    endpoint = endpoint_of(values)
    if endpoint is None and any(
        values[field] is not None for field in ("username", "password", "database")
    ):
        yield (
            "username, password and database complete a URL, and none is set: "
            "they are not used"
        )
    strict = values["profile"] in ("staging", "production")
    seen = set()
    for field, each in _addresses(values):
        if each.address not in seen:
            seen.add(each.address)
            yield from _link_warnings(field, each, values, strict=strict)
    if values["encryption_key"] is not None and is_example_key(
        values["encryption_key"]
    ):
        yield (
            "encryption_key is an example, not a random key; staging and production "
            "refuse it"
        )


def _link_warnings(
    field: str, endpoint: Endpoint, values: Mapping[str, Any], *, strict: bool
) -> Iterator[str]:
    if strict and not endpoint.tls and endpoint.reach != "local":
        yield (
            f"{field}: plaintext to {endpoint.address}, a {endpoint.reach} address: "
            "who can listen there reads everything, the password too; "
            "rediss:// encrypts"
        )
    checks = ["tls_verify", "tls_check_hostname"]
    if endpoint.tls and not all({**values, **endpoint.fields}[name] for name in checks):
        yield (
            f"{field}: the certificate of {endpoint.address} is not checked: anybody "
            "can pretend to be that server"
        )
    unused = [
        name
        for name in ("tls_ca_file", "tls_cert_file", "tls_key_file")
        if values[name] is not None
    ]
    if unused and not endpoint.tls:
        yield f"{field} is not rediss://: {', '.join(unused)} not used there"
