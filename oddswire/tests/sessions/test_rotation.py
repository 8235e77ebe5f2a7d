"""The rotation of the page of codecs, by two processes, and bytes that stay."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import pytest

from oddswire.codec import AesGcm, BlindNames, Keyring
from oddswire.errors import CodecError, SessionDamaged, SettingsError
from oddswire.sessions import (
    Collection,
    Expiring,
    Indexed,
    Record,
    SealedSource,
    Secret,
    Sessions,
    SourceRecord,
)
from support.hooks import session_keys

WORKER = Path(__file__).with_name("rotating.py")
BYTES = Path(__file__).with_name("sealed.json")


class Process:
    """A process of `rotating.py`."""

    def __init__(self, *args):
        self._args = args

    async def __aenter__(self):
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, WORKER, *self._args,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_):
        self._process.stdin.close()
        await self._process.wait()

    async def __call__(self, command):
        """Return what it answers."""
        self._process.stdin.write(command.encode() + b"\n")
        return (await self._process.stdout.readline()).decode().strip()


@pytest.mark.integration
@pytest.mark.requirement("S7")
async def test_no_step_of_a_rotation_leaves_a_process_unable_to_read(
    server, prefix, tmp_path
):
    """Two processes that are restarted one after the other read all the while."""
    one, two = Keyring.new_line(1), Keyring.new_line(2)
    index = Keyring.from_text(one).index_line()
    files = []
    for step, text in enumerate((one, one + two, two + one + index, two + index)):
        files.append(tmp_path / f"keys{step}")
        files[-1].write_text(text)
        files[-1].chmod(0o600)
    async with (
        Process(server.url, prefix) as first,
        Process(server.url, prefix) as second,
    ):
        assert await second(f"keys {files[0]}") == "ok"
        for step, path in enumerate(files):
            if step == 3:
                assert "run reencrypt" in await first("retire 1")
                assert await first("reencrypt") == "ok"
                assert await first("retire 1") == "ok"
            for each in (first, second):
                assert await each(f"keys {path}") == "ok"
                for user in (first, second):
                    assert await user("use") == "ok", (step, path)


class Owner(Record):
    """What the committed bytes are of; it may grow, and not change."""

    city: Annotated[str, Indexed()] = ""
    limits: dict[str, float] = {}
    wallets: Annotated[dict[str, str], Collection(9, index="wallet")] = {}
    dialog: Annotated[list[str], Expiring()] = []
    token: Annotated[str, Secret()] = ""


PREFIX = "stays-readable:"
KEPT = {"version": 3, "schema": 1, "created": 5, "active": 6, "on": True}
CENTURY = 3_155_760_000.0


def fill(owner):
    """Put something into every section."""
    owner.city, owner.token = "Trondheim", "hunter2"
    owner.limits = {"price": 0.0517}
    owner.dialog = ["how much?"] * 60


async def written(client):
    """Return what `sealed.json` holds; it was written by this, once, and is kept."""
    keyring = Keyring({2: bytes(range(7, 39)), 1: bytes(range(32))})
    sessions = Sessions(client, Owner, prefix=PREFIX, keyring=keyring, ttl=CENTURY)
    await sessions.update(-42, fill, create=True)
    await sessions.add_to(-42, "wallets", "0xaa", "whale")
    hashes = [await client.hgetall(key) for key in session_keys(sessions).pair(-42)]
    source = Memory()
    await SealedSource(source, keyring).save(
        SourceRecord(user_id=-42, data=b"kept", **KEPT), 0
    )
    return {
        "keys": [list(session_keys(sessions).pair(-42))],
        "hashes": [{k.hex(): v.hex() for k, v in each.items()} for each in hashes],
        "user": BlindNames(keyring).of_user(-42),
        "value": BlindNames(keyring).of_value("wallet", "0xaa"),
        "blob": AesGcm(keyring).seal(b"a text", "owner", b"place").hex(),
        "kept": source.kept.data.hex(),
        "index": keyring.index_line(),
    }


class Memory:
    """A source of one record."""

    kept = None

    async def load(self, user_ids):
        """Return it."""
        return [self.kept]

    async def save(self, kept, expected):
        """Keep it."""
        self.kept = kept
        return True

    async def scan(self, after, limit):
        """Return it, once."""
        return [self.kept] if after is None else []


@pytest.mark.integration
@pytest.mark.requirement("S7")
async def test_bytes_that_were_sealed_once_stay_readable(client):
    """Sessions, names, records of a source and blobs of version 1 open for ever."""
    stored = json.loads(await asyncio.to_thread(BYTES.read_text))
    keyring = Keyring.from_text(f"2 {bytes(range(7, 39)).hex()}\n" + stored["index"])
    both = Keyring({2: bytes(range(7, 39)), 1: bytes(range(32))})
    keys = stored["keys"][0]
    for key, fields in zip(keys, stored["hashes"], strict=True):
        await client.unlink(key)
        pairs = {bytes.fromhex(k): bytes.fromhex(v) for k, v in fields.items()}
        await client.hset(key, mapping=pairs)
    try:
        for ring in (both, keyring):
            sessions = Sessions(client, Owner, prefix=PREFIX, keyring=ring)
            assert list(session_keys(sessions).pair(-42)) == keys
            owner = await sessions.get(-42)
            assert (owner.city, owner.token) == ("Trondheim", "hunter2")
            assert owner.limits == {"price": 0.0517}
            assert owner.dialog == ["how much?"] * 60
            assert owner.wallets == {"0xaa": "whale"}
            assert BlindNames(ring).of_user(-42) == stored["user"]
            assert BlindNames(ring).of_value("wallet", "0xaa") == stored["value"]
            blob = bytes.fromhex(stored["blob"])
            assert AesGcm(ring).open(blob, "owner", b"place") == b"a text"
            source = Memory()
            kept = SourceRecord(user_id=-42, data=bytes.fromhex(stored["kept"]), **KEPT)
            source.kept = kept
            [opened] = await SealedSource(source, ring).load([-42])
            assert opened.data == b"kept"
    finally:
        await client.unlink(*keys)


@pytest.mark.errors
@pytest.mark.requirement("S7", "X2")
async def test_a_record_of_the_source_opens_only_as_it_was_sealed():
    """Another table, user, version, schema, time or activity is damage."""
    keyring, source = Keyring.from_text(Keyring.new_line(1)), Memory()
    sealed = SealedSource(source, keyring)
    kept = SourceRecord(user_id=7, data=b"content", **KEPT)
    await sealed.save(kept, 0)
    assert await sealed.load([7]) == [kept]
    stored = source.kept
    for name, value in (
        ("user_id", 8), ("version", 4), ("schema", 2), ("created", 4), ("active", 7),
        ("on", False), ("data", stored.data[:-1]), ("data", b""), ("data", kept.data),
    ):  # fmt: skip
        source.kept = type(kept)(**{**_fields(stored), name: value})
        with pytest.raises(CodecError):
            await sealed.load([7])
        assert await sealed.scan(None, 5) == [source.kept], "it is left as it is"
        assert await sealed.reseal() == 0
    source.kept = stored
    with pytest.raises(CodecError):
        await SealedSource(source, keyring, name="groups").load([7])


def _fields(kept):
    return {name: getattr(kept, name) for name in kept.__struct_fields__}


@pytest.mark.errors
@pytest.mark.requirement("S7")
async def test_a_key_does_not_leave_while_the_source_needs_it(client, prefix):
    """`retire` asks the source too, and its sealer drops the key as well."""
    one, two = Keyring.new_line(1), Keyring.new_line(2)
    index = Keyring.from_text(one).index_line()
    source = Memory()
    await SealedSource(source, Keyring.from_text(one)).save(
        SourceRecord(user_id=7, data=b"content", **KEPT), 0
    )
    old = source.kept
    sealed = SealedSource(source, Keyring.from_text(two + one + index))
    with pytest.raises(Exception, match="1 records of the source"):
        await sealed.retire(1)
    assert await sealed.reseal() == 1
    await sealed.retire(1)
    assert (await sealed.load([7]))[0].data == b"content"
    source.kept = old
    with pytest.raises(CodecError, match="key 1"):
        await sealed.load([7])


@pytest.mark.errors
@pytest.mark.requirement("S7")
def test_the_index_line_opens_nothing():
    """What stays in the key file after a rotation is no key that ever sealed."""
    text = Keyring.new_line(1)
    ring = Keyring.from_text(text)
    backup = AesGcm(ring).seal(b"seed", "42", b"place")
    line = ring.index_line()
    digits = line.split()[1]
    assert digits != text.split()[1]
    assert digits != ring.key_for(1, "42").hex()
    with pytest.raises(CodecError):
        AesGcm(Keyring({1: bytes.fromhex(digits)})).open(backup, "42", b"place")
    kept = Keyring.from_text(Keyring.new_line(2) + line)
    assert BlindNames(kept).of_user(42) == BlindNames(ring).of_user(42)
    assert kept.index_line() == line
    with pytest.raises(SettingsError, match="index_line"):
        Keyring({1: bytes(32)}, index=bytes(32))


@pytest.mark.errors
@pytest.mark.requirement("S7")
async def test_plain_code_does_not_read_a_sealed_session(client, prefix):
    """A sealed header without its key is an error, though nothing else is stored."""
    keyring = Keyring.from_text(Keyring.new_line(1))
    await Sessions(client, Owner, prefix=prefix, sealer=AesGcm(keyring)).update(
        1, lambda s: None, create=True
    )
    with pytest.raises(SessionDamaged) as caught:
        await Sessions(client, Owner, prefix=prefix).get(1)
    assert caught.value.reason == "key"
