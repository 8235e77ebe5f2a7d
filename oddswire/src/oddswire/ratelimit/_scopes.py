"""`Scopes`: finds every form of a subject that is erased, such as 7:42 for 42.

An adapter may count a user of a bot as ``<bot>:<user>``. The first part is the scope
of the subject. Erasing user 42 deletes what any process counted of her in any scope:

1. A process notes a scope in Redis, in a set for each rule, before it counts the first
   subject of that scope.
2. What was counted before the set existed is in no set. Therefore the first erasure
   under a rule reads the names of all keys, notes the scopes that it finds, and then
   that the set is complete.
3. From then on an erasure reads the set and computes the keys.
4. A rule with more than `_MOST` scopes is noted as such, and each erasure reads the
   names of all keys: subjects such as ``<session>:<user>`` would fill the set.

The set outlives what was counted: each process notes its scopes again every hour, and a
counter lives for 31 days at most.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from oddswire._text import text
from oddswire.errors import InvalidKey, WrongType
from oddswire.keys import RATE_BLOCK, RATE_LIMIT, KeySpace

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from oddswire.client import Client
    from oddswire.ratelimit._state import RuleState, SubjectState

_MOST = 64
# Members of a set that are no scope; a scope is noted with a colon in front.
_COMPLETE, _TOO_MANY = "complete", "too many"
# Seconds until a scope is noted again: the server may have lost or evicted the set.
_NOTED_FOR = 3600.0
_LIFETIME = 62 * 86_400_000  # milliseconds
_SEARCH_TIMEOUT = 5.0  # seconds for a command of an erasure; no decision waits for it
_KEYS_AT_ONCE = 1000


class Scopes:
    """Notes scopes, and finds the subjects of an erasure.

    Args:
        client: With the deadline of a decision.
        space: Makes the keys.
        now: A clock that never goes back, seconds.
    """

    def __init__(
        self, client: Client, space: KeySpace, now: Callable[[], float]
    ) -> None:
        self._client = client
        self._space = space
        self._now = now

    async def note(self, states: Sequence[SubjectState]) -> None:
        """Note the scopes of these subjects, before one of them is counted.

        Raises:
            OddswireError: As any command; then nothing may be counted in Redis.
        """
        now = self._now()
        for state in states:
            rule, member = state.rule, f":{state.scope}"
            noted = rule.noted_scopes
            if (
                state.scope is None
                or max(noted.get(member, 0.0), noted.get(_TOO_MANY, 0.0)) > now
            ):
                continue
            if len(noted) >= _MOST:
                member = _TOO_MANY
            await self._add(self._client, rule, member)
            noted[member] = now + _NOTED_FOR

    async def find(
        self, rules: Iterable[RuleState], subjects: dict[str, int | str]
    ) -> set[SubjectState]:
        """Return every state that Redis may have of these subjects in a scope.

        Raises:
            NoPermission: The user may not SCAN, and the names have to be read.
            OddswireError: As any command.
        """
        client = self._client.bounded(_SEARCH_TIMEOUT)
        found: set[SubjectState] = set()
        unknown = []
        for rule in rules:
            members = await self._members(client, rule)
            scopes = members - {_COMPLETE, _TOO_MANY}
            if _COMPLETE in members and _TOO_MANY not in members:
                await client.pexpire(rule.scopes_key, _LIFETIME)
                found |= self._in_scopes(rule, scopes, subjects)
            else:
                unknown.append(rule)
        if unknown:
            found |= await self._search(client, unknown, subjects)
        return found

    def _in_scopes(
        self, rule: RuleState, scopes: Iterable[str], subjects: dict[str, int | str]
    ) -> set[SubjectState]:
        key, now = str(rule.key), self._now()
        states = set()
        for scope in scopes:
            # Too long to be a key: it was never counted.
            with suppress(InvalidKey):
                subject = f"{scope[1:]}:{subjects[key]}"
                states.add(rule.subject({key: subject}, now))
        return states

    async def _search(
        self,
        client: Client,
        rules: Collection[RuleState],
        subjects: dict[str, int | str],
    ) -> set[SubjectState]:
        """Read the names of all keys; note their scopes, and that these are all.

        What is counted meanwhile, in a scope that no key has yet, was noted before.
        """
        by_name = {rule.name: rule for rule in rules}
        scopes: dict[RuleState, set[str]] = {rule: set() for rule in rules}
        pattern = f"{self._space.prefix}rate-*"
        async for key in client.scan_iter(match=pattern, count=_KEYS_AT_ONCE):
            name, counted = (
                self._space.parse(RATE_LIMIT, key)
                or self._space.parse(RATE_BLOCK, key)
                or ("", "")
            )
            scope, colon, _ = counted.rpartition(":")
            if colon and name in by_name:
                scopes[by_name[name]].add(f":{scope}")
        found: set[SubjectState] = set()
        for rule, members in scopes.items():
            found |= self._in_scopes(rule, members, subjects)
            known = {_TOO_MANY} if len(members) > _MOST else members
            await self._add(client, rule, *known, _COMPLETE)
        return found

    async def _members(self, client: Client, rule: RuleState) -> set[str]:
        try:
            return {text(each) for each in await client.smembers(rule.scopes_key)}
        except WrongType:
            return set()

    async def _add(self, client: Client, rule: RuleState, *members: str) -> None:
        try:
            await client.sadd(rule.scopes_key, *members)
        except WrongType:
            # Junk in its place: begin the set again, as one that is not complete.
            await client.unlink(rule.scopes_key)
            await client.sadd(rule.scopes_key, *members)
        await client.pexpire(rule.scopes_key, _LIFETIME)
