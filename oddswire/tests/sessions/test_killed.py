"""A process that is killed -9, or stopped, between any two steps of a call."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import sys
from pathlib import Path

import pytest

from oddswire.clock import SystemClock
from oddswire.codec import AesGcm, Keyring
from oddswire.errors import SessionFull
from support import eventually
from support.hooks import session_keys

WORKER = Path(__file__).with_name("dying.py")
_spec = importlib.util.spec_from_file_location("session_dying", WORKER)
dying = importlib.util.module_from_spec(_spec)
sys.modules["session_dying"] = dying
_spec.loader.exec_module(dying)

USERS = (1, 2, 3, 4, 5)
OF_THE_FOLLOWER = ("command", "near", "mirror")


async def found(client, prefix, keys):
    """Return what another process finds: each session, index and counter."""
    sessions = dying.open_sessions(client, prefix, keys)
    people = {}
    for user in USERS:
        person = await sessions.get(user)
        if person is not None:
            halves = round((SystemClock().now() - person.last_activity) / 1800)
            main, short = session_keys(sessions).pair(user)
            blobs = {**await client.hgetall(main), **await client.hgetall(short)}
            sealer = AesGcm(Keyring.from_text(keys))
            people[user] = (
                (person.city, person.wallets, person.dialog, person.token),
                (person.is_active, halves),
                {sealer.key_number(b) for f, b in blobs.items() if f not in b"hi"},
            )
    index = {
        (name, value): await sessions.users_for(name, value, fresh=True)
        for name, values in (
            ("city", ("Oslo", "Rome")),
            ("wallet", ("0xaa", "0xbb", "0xcc")),
        )
        for value in values
    }
    keys = session_keys(sessions)
    stats = await client.hgetall(keys.stats)
    total = await client.zcard(keys.activity)
    counted = {
        "all": total,
        "with wallets": int(stats[b"with:wallets"]),
        "off": await client.scard(keys.off),
        "may end": await client.zcard(keys.expiry),
    }
    return people, index, counted, await strays(client, sessions)


async def strays(client, sessions):
    """Return keys of sessions that nobody counts."""
    left = set()
    keys = session_keys(sessions)
    async for key in client.scan_iter(match=keys.prefix + "*"):
        left.add(key)
    for name in await client.zrange(keys.activity, 0, -1):
        main, short = keys.pair(keys.names.user(name.decode()))
        assert main.encode() in left
        left -= {main.encode(), short.encode()}
    own = tuple(key[: key.index("}:") + 2].encode() for key in keys.pair(0))
    return {key for key in left if key.startswith(own)}


async def goes_on(client, prefix, keys):
    """Assert that the cap is exact, and that nothing is stuck."""
    sessions = dying.open_sessions(client, prefix, keys)
    await sessions.sweep()
    cap = await client.zcard(session_keys(sessions).activity) + 1
    sessions = dying.open_sessions(client, prefix, keys, cap=cap)
    await sessions.update(77, dying.born, create=True)
    with pytest.raises(SessionFull):
        await sessions.update(78, dying.born, create=True)
    await sessions.delete(77)
    await sessions.update(1, dying.moved, create=True)
    await sessions.activate(1)
    assert 1 in await sessions.users_for("wallet", "0xcc", fresh=True)
    assert 1 not in await sessions.users_for("wallet", "0xaa", fresh=True)


def one_of(state, old, new, *, by_parts):
    """Return whether a state is the old or the new one, whole."""
    if not by_parts:
        return state in (old, new)
    people, rest = state[0], state[1:]
    same = all(people.get(u) in (old[0].get(u), new[0].get(u)) for u in USERS)
    return same and rest in (old[1:], new[1:])


async def start(*arguments):
    """Start the worker."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, WORKER, *arguments, stdin=pipe, stdout=pipe, stderr=pipe
    )


async def expected(client, prefix, keys):
    """Return what is found before and after each call that nothing befalls."""
    states = {}
    for call, (make, _) in dying.CALLS.items():
        where = f"{prefix[:-1]}-{call}-new:"
        await dying.prepare(client, where, keys)
        old = await found(client, where, keys)
        await make(dying.open_sessions(client, where, keys))
        states[call] = old, await found(client, where, keys)
        assert states[call][0] != states[call][1]
    return states


@pytest.mark.errors
@pytest.mark.timeout(300)
@pytest.mark.requirement("S3", "S5")
async def test_killed_between_any_two_steps_a_session_is_whole(server, client, prefix):
    """After kill -9 at each step another process finds old or new, indexes, the cap."""
    keys = Keyring.new_line(2) + Keyring.new_line(1)
    states = await expected(client, prefix, keys)
    process = await start(server.url, prefix[:-1], keys)
    said, complaint = await process.communicate()
    assert complaint == b"", complaint.decode()
    cases = [line.split() for line in said.decode().splitlines()]
    whole = [case for case in cases if case[2] == "all"]
    killed = [case for case in cases if case[2] != "all"]
    assert {code for _, _, _, code, *_ in whole} == {"0"}
    lived = {step for _, _, step, code, *_ in killed if code == "0"}
    assert {code for _, _, _, code, *_ in killed} - {"0"} == {str(-signal.SIGKILL)}
    # The follower reads one announcement or two at once, so that a step of it may come
    # in one run and not in another; each step of the call itself comes in every run.
    assert not [each for each in lived if not each.startswith(OF_THE_FOLLOWER)]
    # A script that was sent runs, though nobody waits for its answer.

    async def gone():
        wires = await client.client_list()
        return not any(each["name"] == dying.NAME for each in wires)

    await eventually(gone)
    changes = {call: changing(seen, "answered") for _, call, _, _, *seen in whole}
    assert all(changes[call] for call in dying.CALLS), "a call that changed nothing"
    for where, call, step, code, *seen in killed:
        state = await found(client, where, keys)
        old, new = states[call]
        # By what this process had done: which step comes when differs from run to run,
        # since the follower reads the announcements when it pleases.
        assert code == "0" or seen[-1] == step
        if not changing(seen, "sent"):
            assert state == old, (call, step)
        elif changing(seen, "answered") == changes[call]:
            assert state == new, (call, step)
        else:
            # Several sessions are encrypted one after the other.
            by_parts = call == "reencrypt"
            assert one_of(state, old, new, by_parts=by_parts), (call, step)
        await goes_on(client, where, keys)


def changing(steps, how):
    """Return which scripts that change something had come so far, in these steps."""
    scripts = {step.removesuffix(f".{how}") for step in steps if step.endswith(how)}
    return {each for each in scripts if each.rstrip("0123456789") in dying.CHANGING}


@pytest.mark.errors
@pytest.mark.requirement("S3")
@pytest.mark.parametrize("others", ["change", "delete"])
@pytest.mark.parametrize(
    ("call", "step", "sealed"),
    [
        ("update", "save1.before", True),
        ("update", "save1.sent", True),
        ("add", "save1.before", True),
        ("add", "member1.before", False),
    ],
)
async def test_a_process_that_was_stopped_writes_late_and_undoes_nothing(
    server, client, prefix, call, step, sealed, others
):
    """SIGSTOP in a call while another process changes or deletes: both are done."""
    keys = Keyring.new_line(2) + Keyring.new_line(1) if sealed else ""
    process = await start(server.url, prefix, keys, call, step)
    assert await process.stdout.readline() == b"stopped\n"
    sessions = dying.open_sessions(client, prefix, keys)
    if others == "change":
        await sessions.update(1, lambda p: setattr(p, "note", "other"))
    else:
        await sessions.delete(1)
    said, complaint = await process.communicate(b"go on\n")
    assert (said, complaint) == (b"0\n", b"")
    person = await sessions.get(1)
    if others == "delete":
        assert person is None
    else:
        assert person.note == "other"
        assert "0xcc" in person.wallets
        assert person.city == ("Rome" if call == "update" else "Oslo")
    found = await sessions.users_for("wallet", "0xcc", fresh=True)
    assert found == (frozenset() if others == "delete" else {1})
