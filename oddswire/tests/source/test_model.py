"""Redis and source against a model that is a dictionary, with faults at any step."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from oddswire import Client
from oddswire.codec import Keyring
from oddswire.errors import Outcome, SessionGone, SourceError
from support.hooks import advance_server_clock

users = st.integers(1, 4)
cities = st.sampled_from(["", "Oslo", "Rome"])
faults = st.sampled_from(
    [None, None, ("before", "away"), ("before", "lost"), ("after", "lost")]
)
calls = st.sampled_from(["load", "save", "delete"])
parts = st.integers(0, 1)


def machine_for(url, prefix):
    """Return the state machine's class, bound to a server."""
    desk = sys.modules["source_desk"]
    count = iter(range(1_000_000))

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.runner = asyncio.Runner()
            self.client = Client.from_url(url)
            self.folder = tempfile.TemporaryDirectory()
            self.source = desk.Desk(Path(self.folder.name) / "source.db")
            own = f"{prefix[:-1]}-{next(count)}:"
            self.prefix = own
            self.parts = []
            # By user: every state that may be: (city, wallets, active) or None.
            self.model = {user: {None} for user in range(1, 5)}

        @initialize(sealed=st.booleans())
        def begin(self, sealed):
            self.parts = [
                desk.Sessions(
                    self.client,
                    desk.Person,
                    prefix=self.prefix,
                    source=self.source,
                    cap=2,
                    keyring=Keyring({1: bytes(range(32))}) if sealed else None,
                )
                for _ in range(2)
            ]

        def do(self, call):
            return self.runner.run(call)

        def teardown(self):
            self.do(self.client.aclose())
            self.runner.close()
            self.source.close()
            self.folder.cleanup()

        def attempt(self, user, call, fault, at, change):
            """Make a call under a fault; `change` is from a state to the next."""
            if fault is not None:
                getattr(self.source, fault[0])[at] = fault[1]
            states = self.model[user]
            try:
                self.do(call)
                self.model[user] = {change(state) for state in states}
            except SessionGone:
                assert None in states
                self.model[user] = {None}
            except SourceError as error:
                if error.outcome is Outcome.UNKNOWN:
                    self.model[user] = states | {change(state) for state in states}
                # A mark that was left is old now.
                for part in self.parts:
                    advance_server_clock(part, 3)
            finally:
                self.source.before.clear()
                self.source.after.clear()

        @rule(user=users, city=cities, part=parts, fault=faults, at=calls)
        def update(self, user, city, part, fault, at):
            def fn(person):
                person.city = city

            call = self.parts[part].update(user, fn, create=True)
            self.attempt(
                user, call, fault, at,
                lambda state: (city, *(state or ("", frozenset(), True))[1:]),
            )  # fmt: skip

        @rule(
            user=users, wallet=st.sampled_from("ab"), part=parts, fault=faults, at=calls
        )
        def add(self, user, wallet, part, fault, at):
            self.attempt(
                user, self.parts[part].add_to(user, "wallets", wallet, ""), fault, at,
                lambda s: s and (s[0], s[1] | {wallet}, s[2]),
            )  # fmt: skip

        @rule(
            user=users, wallet=st.sampled_from("ab"), part=parts, fault=faults, at=calls
        )
        def remove(self, user, wallet, part, fault, at):
            self.attempt(
                user, self.parts[part].remove_from(user, "wallets", wallet), fault, at,
                lambda s: s and (s[0], s[1] - {wallet}, s[2]),
            )  # fmt: skip

        @rule(user=users, on=st.booleans(), part=parts, fault=faults, at=calls)
        def switch(self, user, on, part, fault, at):
            sessions = self.parts[part]
            call = sessions.activate(user) if on else sessions.deactivate(user)
            self.attempt(user, call, fault, at, lambda s: s and (s[0], s[1], on))

        @rule(user=users, part=parts, fault=faults, at=calls)
        def delete(self, user, part, fault, at):
            self.attempt(user, self.parts[part].delete(user), fault, at, lambda _: None)

        @rule()
        def redis_is_emptied(self):
            async def empty():
                keys = [key async for key in self.client.scan_iter(f"{self.prefix}*")]
                if keys:
                    await self.client.unlink(*keys)

            self.do(empty())

        @rule()
        def rebuild(self):
            self.do(self.parts[0].rebuild())

        @invariant()
        def the_same(self):
            if self.parts:
                self.do(self.compare())

        async def compare(self):
            found = {}
            for user, states in self.model.items():
                person = await self.parts[0].get(user)
                state = None
                if person is not None:
                    wallets = frozenset(person.wallets)
                    state = (person.city, wallets, person.is_active)
                if state == ("", frozenset(), True):
                    # Who asked for nothing ends with her conversation.
                    assert state in states or None in states
                elif state is None:
                    assert None in states or ("", frozenset(), True) in states
                else:
                    assert state in states
                self.model[user] = {state}
                if state is not None:
                    found[user] = state
            kept = {
                user for user, row in self.source.rows().items() if row.data != b"\x80"
            }
            asked = {user for user, state in found.items() if any(state[:2])}
            assert asked == kept
            for city in ("Oslo", "Rome"):
                assert await self.parts[1].users_for("city", city) == {
                    user for user, s in found.items() if s[0] == city and s[2]
                }
            for wallet in "ab":
                assert await self.parts[1].users_for("wallet", wallet) == {
                    user for user, s in found.items() if wallet in s[1] and s[2]
                }

    return Machine


@pytest.mark.advanced
@pytest.mark.requirement("S3", "S8")
def test_any_sequence_of_calls_and_faults_is_what_the_model_says(server, prefix):
    """Sessions, indexes and source agree, whatever failed, Redis emptied or not."""
    run_state_machine_as_test(
        machine_for(server.url, prefix),
        settings=settings(max_examples=12, stateful_step_count=20, deadline=None),
    )
