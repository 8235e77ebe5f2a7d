"""Sessions against a model that is a dictionary: any sequence gives the same."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from oddswire import Client
from oddswire.codec import Keyring
from oddswire.errors import SessionFull, SessionGone
from support.hooks import advance_server_clock

TTL = 3600
CAP = 3
LIMIT = 20
users = st.integers(1, 4)
wallets = st.sampled_from(["0xaa", "0xbb"])
cities = st.sampled_from(["", "Oslo", "Rome"])


class Known:
    """A session of the model."""

    def __init__(self):
        self.city, self.wallets, self.dialog = "", set(), []
        self.on, self.until = True, 0.0

    def durable(self):
        """Whether anything was asked for."""
        return bool(self.city or self.wallets or not self.on)


def machine_for(server_url, make, prefix):
    """Return the state machine's class, bound to a server."""
    count = iter(range(1_000_000))

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.runner = asyncio.Runner()
            self.client = Client.from_url(server_url)
            options = {
                "client": self.client, "ttl": TTL, "touch_interval": 0, "cap": CAP,
                "keyring": Keyring({1: bytes(range(32))}),
            }  # fmt: skip
            make.prefix = f"{prefix[:-1]}-{next(count)}:"
            self.parts = [make(**options), make(**options)]
            self.now = 0.0
            self.model = {}

        def do(self, call):
            return self.runner.run(call)

        def teardown(self):
            self.do(self.client.aclose())
            self.runner.close()

        def live(self, user):
            known = self.model.get(user)
            if known is None or (known.until <= self.now and not known.durable()):
                self.model.pop(user, None)
                return None
            if known.until <= self.now:
                known.dialog = []
            return known

        def acted(self, known):
            known.until = self.now + TTL

        @rule(user=users, city=cities, word=st.sampled_from("ab"), part=st.booleans())
        def update(self, user, city, word, part):
            def fn(person):
                person.city = city
                person.dialog.append(word)

            known = self.live(user)
            count = sum(self.live(each) is not None for each in list(self.model))
            call = self.parts[part].update(user, fn, create=True)
            if known is None and count >= CAP:
                with pytest.raises(SessionFull):
                    self.do(call)
                return
            self.do(call)
            known = self.model.setdefault(user, Known())
            known.city = city
            known.dialog = [*known.dialog, word]
            self.acted(known)

        @rule(user=users, wallet=wallets, part=st.booleans())
        def add(self, user, wallet, part):
            known = self.live(user)
            call = self.parts[part].add_to(user, "wallets", wallet, make.Wallet())
            if known is None:
                with pytest.raises(SessionGone):
                    self.do(call)
                return
            assert self.do(call) == (wallet not in known.wallets)
            known.wallets.add(wallet)
            self.acted(known)

        @rule(user=users, wallet=wallets, part=st.booleans(), active=st.booleans())
        def remove(self, user, wallet, part, active):
            known = self.live(user)
            call = self.parts[part].remove_from(user, "wallets", wallet, active=active)
            if known is None:
                with pytest.raises(SessionGone):
                    self.do(call)
                return
            assert self.do(call) == (wallet in known.wallets)
            if wallet in known.wallets:
                known.wallets.discard(wallet)
                if active:
                    self.acted(known)

        @rule(user=users, on=st.booleans(), part=st.booleans())
        def switch(self, user, on, part):
            known = self.live(user)
            sessions = self.parts[part]
            call = sessions.activate(user) if on else sessions.deactivate(user)
            assert self.do(call) == (known is not None)
            if known is not None:
                known.on = on

        @rule(user=users, part=st.booleans())
        def touch(self, user, part):
            known = self.live(user)
            assert self.do(self.parts[part].touch(user)) == (known is not None)
            if known is not None:
                self.acted(known)

        @rule(user=users, part=st.booleans())
        def delete(self, user, part):
            # One that has ended and was not swept is deleted too, and says so.
            there = self.live(user) is not None
            deleted = self.do(self.parts[part].delete(user))
            assert deleted or not there
            self.model.pop(user, None)

        @rule(old=users, new=users)
        @precondition(lambda self: self.model)
        def migrate(self, old, new):
            known, other = self.live(old), self.live(new)
            if old == new or other is not None:
                return
            assert self.do(self.parts[0].migrate(old, new)) == (known is not None)
            if known is not None:
                self.model[new] = self.model.pop(old)

        @rule(hours=st.sampled_from([0.1, 0.6, 1.1]))
        def time_passes(self, hours):
            self.now += hours * 3600
            for part in self.parts:
                advance_server_clock(part, hours * 3600)

        @rule()
        def sweep(self):
            self.do(self.parts[0].sweep())

        @rule()
        def count(self):
            stats = self.do(self.parts[1].stats())
            known = [k for user in range(1, 5) if (k := self.live(user))]
            assert stats.total == len(known)
            assert stats.inactive == sum(not k.on for k in known)
            assert stats.having["wallets"] == sum(bool(k.wallets) for k in known)

        @invariant()
        def the_same(self):
            self.do(self.compare())

        async def compare(self):
            sessions = self.parts[0]
            known = {user: k for user in range(1, 5) if (k := self.live(user))}
            for user in range(1, 5):
                person = await sessions.get(user)
                assert (person is None) == (user not in known)
                if person is not None:
                    k = known[user]
                    assert (person.city, person.dialog, person.is_active) == (
                        k.city, k.dialog, k.on,
                    )  # fmt: skip
                    assert person.wallets.keys() == k.wallets
            for city in ("Oslo", "Rome"):
                expected = {u for u, k in known.items() if k.on and k.city == city}
                assert await sessions.users_for("city", city) == expected
            for wallet in ("0xaa", "0xbb"):
                expected = {u for u, k in known.items() if k.on and wallet in k.wallets}
                assert await sessions.users_for("wallet", wallet) == expected

    return Machine


@pytest.mark.advanced
@pytest.mark.requirement("S3", "S4", "S6")
def test_any_sequence_of_calls_is_what_the_model_says(server, prefix, people_maker):
    """Sessions, indexes, cap and counts agree with a dictionary after every call."""
    kind = machine_for(server.url, people_maker, prefix)
    run_state_machine_as_test(
        kind, settings=settings(max_examples=15, stateful_step_count=25, deadline=None)
    )
