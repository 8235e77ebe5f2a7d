"""Keys: nothing collides, nothing leaks into a pattern, one tag is one slot."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from oddswire import keys
from oddswire.errors import InvalidKey
from oddswire.keys import FAMILIES, Family, KeySpace

# What means something to keys, patterns, hash tags, escapes and terminals, and what
# looks like an escape; mixed with anything at all.
HOSTILE = st.text(
    st.sampled_from(":{}*?[]\\%^-.~aA25\x00\n \x7fé\U0001f600"), max_size=8
)
TEXT = st.one_of(HOSTILE, st.text(max_size=8))
PREFIXES = st.sampled_from(["a:", "ab:", "oddswire:", "oddswire.:", "polymarket:"])
OWN = Family("own", str, int, str, tag=2)


def _parts(family: Family) -> st.SearchStrategy[tuple[int | str, ...]]:
    return st.tuples(*(st.integers() if t is int else TEXT for t in family.types))


@st.composite
def _named_keys(draw: st.DrawFn) -> tuple[str, Family, tuple[int | str, ...]]:
    family = draw(st.sampled_from([*FAMILIES, OWN]))
    return draw(PREFIXES), family, draw(_parts(family))


@st.composite
def _near_keys(draw: st.DrawFn):
    """Two keys that differ little: one family, parts of the few risky characters."""
    prefix, family, _ = draw(_named_keys())
    risky = st.text(st.sampled_from(":%{}*3A"), max_size=3)
    parts = st.tuples(
        *(st.integers(-3, 3) if t is int else risky for t in family.types)
    )
    return (prefix, family, draw(parts)), (prefix, family, draw(parts))


def _key(prefix: str, family: Family, parts: tuple[int | str, ...]) -> str:
    return KeySpace(prefix).key(family, *parts)


def _matches(pattern: str, text: str) -> bool:
    """Match as the server's MATCH does: * ? [a-z] [^a] and backslash."""
    if not pattern:
        return not text
    first, rest = pattern[0], pattern[1:]
    if first == "*":
        return any(_matches(rest, text[at:]) for at in range(len(text) + 1))
    if not text:
        return False
    if first == "?":
        return _matches(rest, text[1:])
    if first == "[" and "]" in rest:
        inside, _, rest = rest.partition("]")
        return ((text[0] in inside.lstrip("^")) != inside.startswith("^")) and _matches(
            rest, text[1:]
        )
    if first == "\\" and rest:
        first, rest = rest[0], rest[1:]
    return first == text[0] and _matches(rest, text[1:])


@pytest.mark.advanced
@pytest.mark.requirement("G5")
@given(st.one_of(st.tuples(_named_keys(), _named_keys()), _near_keys()))
@example((("a:", OWN, ("", 1, "a:b")), ("a:", OWN, ("", 1, "a%3Ab"))))
@example((("a:", OWN, ("%", 1, "")), ("a:", OWN, ("", 1, ""))))
@example((("a:", keys.CACHE, ("a:b", "c")), ("a:", keys.CACHE, ("a", "b:c"))))
@example((("a:", keys.CACHE, ("a}", "c")), ("a:", keys.CACHE, ("a", "c"))))
def test_different_parts_never_collide(pair) -> None:
    """Two keys are equal only for the same prefix, family and parts."""
    one, other = pair
    assert (_key(*one) == _key(*other)) == (one == other)


@pytest.mark.basic
@pytest.mark.requirement("G5")
@given(_named_keys())
@example(("a:", OWN, ("", -1, "%25")))
def test_parts_come_back_from_their_key(one) -> None:
    """A key, as text or as the bytes a client returns, gives back its parts."""
    prefix, family, parts = one
    key = _key(*one)

    assert KeySpace(prefix).parse(family, key) == parts
    assert KeySpace(prefix).parse(family, key.encode()) == parts


@pytest.mark.errors
@pytest.mark.requirement("X1")
@pytest.mark.requirement("G5")
@given(_named_keys(), st.data())
def test_what_is_not_exactly_a_key_is_not_parsed(one, data: st.DataObject) -> None:
    """A changed key either is the exact key of other parts, or no key at all."""
    prefix, family, _ = one
    key = _key(*one)
    at = data.draw(st.integers(0, len(key)))
    until = data.draw(st.integers(at, len(key)))
    changed = key[:at] + data.draw(HOSTILE) + key[until:]
    space = KeySpace(prefix)
    parts = space.parse(family, changed)

    assert parts is None or space.key(family, *parts) == changed
    assert parts is not None or changed != key


@pytest.mark.errors
@pytest.mark.requirement("G5")
@given(st.one_of(st.text(), st.binary()), st.sampled_from(FAMILIES))
def test_keys_of_others_are_not_parsed(key, family) -> None:
    """No text and no bytes without our prefix and family are taken for a key."""
    assert KeySpace("oddswire:").parse(family, key) is None


@pytest.mark.advanced
@pytest.mark.requirement("G5")
@given(st.one_of(st.tuples(_named_keys(), _named_keys()), _near_keys()), st.data())
def test_a_pattern_matches_its_family_only(pair, data: st.DataObject) -> None:
    """A pattern matches a key exactly when prefix, family and leading parts agree."""
    one, other = pair
    prefix, family, parts = one
    leading = parts[: data.draw(st.integers(0, len(parts)))]
    pattern = KeySpace(prefix).pattern(family, *leading)

    assert _matches(pattern, _key(*one))
    agree = other[:2] == one[:2] and other[2][: len(leading)] == leading
    assert _matches(pattern, _key(*other)) == agree


@pytest.mark.integration
@pytest.mark.requirement("G5")
def test_scan_on_a_server_finds_one_family(server, prefix) -> None:
    """SCAN with a pattern returns the keys of one family under one prefix, all."""
    names = ["", "*", "a:b", "{x}", "[a-z]", "\\", "%", "é\n", "a", "a?", "^", "-"]
    longer = prefix[:-1] + "x:"
    made = {
        (space, family, parts): _key(space, family, parts)
        for space in (prefix, longer)
        for family in (keys.CACHE, keys.CACHE_LEASE, keys.SESSION_INDEX, keys.LOCK)
        for name in names
        for parts in [tuple(7 if t is int else name for t in family.types)]
    }
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.mset(dict.fromkeys(made.values(), "x"))
        for space, family, parts in made:
            mine = {k for (s, f, _), k in made.items() if (s, f) == (space, family)}
            below = {k for (s, f, p), k in made.items()
                     if (s, f, p[:1]) == (space, family, parts[:1])}  # fmt: skip
            of = KeySpace(space)

            assert set(client.scan_iter(of.pattern(family), count=1000)) == mine
            found = set(client.scan_iter(of.pattern(family, parts[0]), count=1000))
            assert found == below


@pytest.mark.advanced
@pytest.mark.requirement("G5")
@given(TEXT, TEXT, st.integers(), PREFIXES, PREFIXES)
@example("", "x", 0, "a:", "ab:")
def test_one_tag_is_one_slot(name, other, number, prefix, second) -> None:
    """Keys with the same tagged parts share a slot, whatever family and prefix."""
    one, two = KeySpace(prefix), KeySpace(second)
    users = Family("users", str, tag=1)
    notes = Family("notes", str, int, str, tag=1)
    slots = {
        key_slot(key.encode())
        for key in (
            one.key(users, name),
            two.key(users, name),
            one.key(notes, name, number, other),
            one.key(notes, name, -number, name),
        )
    }

    assert len(slots) == 1


@pytest.mark.basic
@pytest.mark.requirement("G5")
@given(TEXT, TEXT, st.integers(0, 10))
def test_what_a_script_touches_together_shares_a_slot(name, other, shard) -> None:
    """An entry and its lease, one shard of sessions, all rate limits: one slot each."""
    space = KeySpace("oddswire:")

    def slots(*made: str) -> int:
        return len({key_slot(key.encode()) for key in made})

    assert slots(
        space.key(keys.CACHE, name, other), space.key(keys.CACHE_LEASE, name, other)
    ) == 1  # fmt: skip
    assert slots(
        space.key(keys.SESSION, shard, name),
        space.key(keys.SESSION_EXPIRY, shard),
        space.key(keys.SESSION_INDEX, shard, name, other),
    ) == 1  # fmt: skip
    assert slots(
        space.key(keys.RATE_LIMIT, name, other),
        space.key(keys.RATE_BLOCK, name, other),
        space.key(keys.RATE_CHANGE, name),
    ) == 1  # fmt: skip


@pytest.mark.basic
@given(_named_keys())
def test_a_key_is_plain_ascii(one) -> None:
    """A key has no white space, no control character and nothing beyond ASCII."""
    assert all(0x21 <= ord(char) < 0x7F for char in _key(*one))


@pytest.mark.basic
def test_keys_read_as_documented() -> None:
    """The format is the documented one: other programs may rely on it."""
    space = KeySpace("oddswire:")

    assert space.key(keys.SESSION, 0, "42") == "oddswire:session:{s:0}:42"
    assert space.key(keys.CACHE, "market", "a b") == "oddswire:cache:{market:a%20b}"
    assert space.key(keys.RATE_LIMIT, "trades", "42") == (
        "oddswire:rate-limit:{rl}:trades:42"
    )
    assert space.key(keys.LOCK, "") == "oddswire:lock:{%}"
    assert space.key(Family("beat")) == "oddswire:beat"


@pytest.mark.basic
def test_the_page_runs() -> None:
    """The example of docs/reference/keys.md runs, and FAMILIES has every family."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "keys.md").read_text(
        "utf-8"
    )
    for block in re.findall("```python\n(.*?)```", page, re.DOTALL):
        exec(block, {})
    named = [each for each in vars(keys).values() if isinstance(each, Family)]

    assert set(map(id, named)) == set(map(id, FAMILIES))


@pytest.mark.basic
@pytest.mark.requirement("G5")
def test_family_names_are_unique() -> None:
    """No two families of the library share a name, so none shares keys."""
    names = [family.name for family in FAMILIES]

    assert len(names) == len(set(names)) > 20


class Colour(StrEnum):
    """A str by type, and not by its type."""

    RED = "red"


@pytest.mark.errors
@pytest.mark.requirement("G5")
@pytest.mark.parametrize(
    ("family", "parts"),
    [
        (keys.LOCK, ()),
        (keys.LOCK, ("a", "b")),
        (keys.LOCK, (1,)),
        (keys.LOCK, (b"a",)),
        (keys.LOCK, (None,)),
        (keys.LOCK, (Colour.RED,)),
        (keys.LOCK, ("\ud800",)),
        (keys.LOCK, ("x" * 500,)),
        (keys.LOCK, ("é" * 90,)),
        (keys.SESSION_STATS, (True,)),
        (keys.SESSION_STATS, (1.0,)),
        (keys.SESSION_STATS, ("1",)),
        (keys.SESSION_STATS, (10**500,)),
    ],
)
def test_parts_that_make_no_key_are_refused(family, parts) -> None:
    """A wrong number, a wrong type, broken Unicode and 513 bytes raise InvalidKey."""
    with pytest.raises(InvalidKey, match=family.name):
        KeySpace("oddswire:").key(family, *parts)


@pytest.mark.basic
def test_the_longest_key_is_512_bytes() -> None:
    """A key of exactly 512 bytes is made and read; one byte more is refused."""
    space = KeySpace("a:")
    longest = "x" * (512 - len("a:lock:{}"))

    assert len(space.key(keys.LOCK, longest)) == 512
    assert space.parse(keys.LOCK, space.key(keys.LOCK, longest)) == (longest,)
    with pytest.raises(InvalidKey, match="513 bytes"):
        space.key(keys.LOCK, longest + "x")
    assert space.parse(keys.LOCK, "a:lock:{" + longest + "x}") is None


@pytest.mark.errors
@pytest.mark.parametrize(
    "prefix", ["", ":", "a", "a:b:", "a::", "a b:", "é:", "a*:", "{a}:", "a:\n", "a\n:"]
)
def test_a_prefix_is_one_segment(prefix) -> None:
    """A prefix that could be the beginning of another's keys is refused."""
    with pytest.raises(InvalidKey, match="prefix"):
        KeySpace(prefix)


REFUSED = {
    "empty name": lambda: Family(""),
    "separator in name": lambda: Family("a:b"),
    "pattern in name": lambda: Family("a*"),
    "float part": lambda: Family("a", float),
    "bool part": lambda: Family("a", bool),
    "tag beyond the parts": lambda: Family("a", str, tag=2),
    "negative tag": lambda: Family("a", str, tag=-1),
    "braces in group": lambda: Family("a", group="{x}"),
    "too many leading parts": lambda: KeySpace("a:").pattern(keys.LOCK, "a", "b"),
    "leading part of another type": lambda: KeySpace("a:").pattern(keys.LOCK, 1),
}


@pytest.mark.errors
@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_a_family_that_makes_no_safe_keys_is_refused(make) -> None:
    """Names with separators, other types, a tag without parts: InvalidKey."""
    with pytest.raises(InvalidKey):
        make()
