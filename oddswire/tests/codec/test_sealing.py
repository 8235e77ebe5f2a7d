from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.codec import AesGcm, BlindNames, Keyring, PlainNames
from oddswire.codec.sealing import OVERHEAD, place
from oddswire.errors import CodecError, SettingsError

RING = Keyring({7: bytes(range(32)), 3: bytes(range(1, 33))})
SEALER = AesGcm(RING)
HEX = "0123456789abcdef" * 4


@pytest.mark.basic
@pytest.mark.requirement("S7")
@given(data=st.binary(max_size=300), owner=st.text(max_size=8), where=st.binary())
def test_what_is_sealed_opens_in_its_place_only(data, owner, where):
    """It opens for its owner and place, and for no other; twice it is not the same."""
    sealed = SEALER.seal(data, owner, where)
    assert SEALER.open(sealed, owner, where) == data
    assert len(sealed) == len(data) + OVERHEAD
    assert SEALER.key_number(sealed) == SEALER.primary == 7
    assert SEALER.seal(data, owner, where) != sealed
    for other in (
        (owner + "x", where),
        (owner, where + b"x"),
        (where.hex() + "y", b""),
    ):
        with pytest.raises(CodecError) as caught:
            SEALER.open(sealed, *other)
        assert caught.value.reason == "damaged"


@pytest.mark.errors
@pytest.mark.requirement("S7")
@given(data=st.binary(max_size=60), at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_flipped_bit_never_opens(data, at, bit):
    """Any one bit of header, nonce, text or tag, changed, is an error with a reason."""
    sealed = bytearray(SEALER.seal(data, "1", b"place"))
    sealed[at % len(sealed)] ^= 1 << bit
    with pytest.raises(CodecError):
        SEALER.open(bytes(sealed), "1", b"place")


@pytest.mark.errors
@pytest.mark.requirement("S7")
@given(data=st.binary(max_size=60))
def test_any_bytes_are_an_error_with_a_reason(data):
    """What nobody sealed never opens, whatever it is."""
    for blob in (
        data,
        b"\xf5\x01\x00\x07" + data,
        b"\xf5\x02\x00\x07" + data + bytes(40),
    ):
        with pytest.raises(CodecError) as caught:
            SEALER.open(blob, "1", b"")
        assert caught.value.reason in {"foreign", "damaged", "newer", "key"}


@pytest.mark.basic
@given(a=st.lists(st.text(max_size=5)), b=st.lists(st.text(max_size=5)))
def test_different_parts_are_different_places(a, b):
    """No two lists of parts are the same place."""
    assert (place(*a) == place(*b)) == (a == b)


@pytest.mark.basic
@pytest.mark.requirement("S7", "X2")
@given(
    one=st.integers(-(2**63), 2**63 - 1),
    two=st.integers(-(2**63), 2**63 - 1),
    value=st.text(max_size=20),
)
def test_names_come_back_and_never_collide(one, two, value):
    """A blind name leads back to its user only under its key; values have one each."""
    blind, other = BlindNames(RING), BlindNames(Keyring({1: os.urandom(32)}))
    for names in (blind, PlainNames()):
        assert names.user(names.of_user(one)) == one
        assert (names.of_user(one) == names.of_user(two)) == (one == two)
    assert blind.of_user(one) != other.of_user(one)
    assert blind.of_value("wallet", value) != blind.of_value("city", value)
    assert blind.of_value("wallet", value) != other.of_value("wallet", value)
    assert blind.of_value("a", "b" + value) != blind.of_value("ab", value)
    with pytest.raises(ValueError, match="name of a user"):
        other.user(blind.of_user(one))


@pytest.mark.basic
@pytest.mark.requirement("S7")
def test_keys_come_from_a_file_a_descriptor_or_text(tmp_path):
    """The three ways give the same keyring; the first line seals."""
    text = f"# ours\n2 {HEX}\n\n1 {HEX[::-1]}  # last year's\nindex {HEX[1:]}0\n"
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(0o600)
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    rings = [
        Keyring.from_text(text),
        Keyring.from_file(path),
        Keyring.from_descriptor(reading),
    ]
    for ring in rings:
        assert ring.numbers == (2, 1)
        assert ring.primary == 2
        assert ring.naming is None
        assert ring.key_for(1, "x") == rings[0].key_for(1, "x")
        assert HEX not in repr(ring)
    assert Keyring.from_text(HEX + "\n").numbers == (1,)
    assert rings[0].key_for(1, "x") != rings[0].key_for(1, "y")
    assert rings[0].key_for(9, "x") is None


@pytest.mark.errors
@pytest.mark.requirement("S7")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "needs a key"),
        ("1 abc", "line 1"),
        (f"x {HEX}", "line 1"),
        (f"0 {HEX}", "1 to 65535"),
        (f"70000 {HEX}", "1 to 65535"),
        (f"1 {HEX}\n1 {HEX[::-1]}", "line 2: key 1 is there twice"),
        (f"1 {HEX}\n2 {HEX}", "under two numbers"),
    ],
)
def test_a_wrong_keyring_is_refused_without_telling_it(text, says):
    """The line is named and what to give; the key is in no error."""
    with pytest.raises(SettingsError, match=says) as caught:
        Keyring.from_text(text)
    assert HEX[:16] not in str(caught.value)


@pytest.mark.errors
@pytest.mark.requirement("S7")
def test_a_key_file_that_others_may_read_is_refused(tmp_path):
    """A file open to its group, missing or not text is refused with what to do."""
    path = tmp_path / "keys"
    path.write_text(f"1 {HEX}\n")
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        Keyring.from_file(path)
    with pytest.raises(SettingsError, match="No such file"):
        Keyring.from_file(tmp_path / "none")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="UTF-8"):
        Keyring.from_file(path)
    with pytest.raises(SettingsError, match="descriptor"):
        Keyring.from_descriptor(os.open(path, os.O_RDONLY))


@pytest.mark.errors
@pytest.mark.requirement("S7")
def test_a_key_that_is_needed_does_not_leave():
    """The sealing key stays, and the one for names until they have their own."""
    with pytest.raises(SettingsError, match="seals"):
        RING.without(7)
    with pytest.raises(SettingsError, match="names come from key 3"):
        RING.without(3)
    both = Keyring.from_text(
        f"7 {bytes(range(32)).hex()}\n3 {bytes(range(1, 33)).hex()}\n"
        + RING.index_line()
    )
    assert both.without(3).numbers == (7,)
    assert both.without(3).naming_key("user") == RING.naming_key("user")
