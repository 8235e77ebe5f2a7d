"""`SendLimiter`: Telegram's limits on what a bot sends, kept by every process.

Telegram does not say its limits exactly; the one sure thing is a 429 with the seconds
to wait (https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this).
So the rules are the caller's, and each 429 stops the bot in all its processes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Required, TypedDict, TypeVar

from oddswire.adapters._arguments import check_limiter
from oddswire.adapters.upstream import Upstream
from oddswire.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from oddswire.ratelimit import Priority, RateLimiter, Rule

R = TypeVar("R")

_LONGEST = 3600.0  # seconds: a pause longer than that is a mistake of somebody
_SHORTEST = 0.1
_UNSAID = 1.0  # seconds, for a 429 that does not say how long

# Methods whose messages are counted. An edit is limited as a message is.
_SENDS = re.compile(r"(send|copy|forward|edit(ephemeral)?message|stop|setgamescore)")
_SENDS_NOTHING = frozenset(
    ("sendchataction", "sendmessagedraft", "sendrichmessagedraft")
)
# The field whose elements become a message each.
_EACH = {
    "sendmediagroup": "media",
    "copymessages": "message_ids",
    "forwardmessages": "message_ids",
}
_SAYS = re.compile(r"(?:retry (?:after|in)|flood_wait_?) *(\d+)", re.IGNORECASE)


def messages(method: str, field: Callable[[str], Any]) -> int:
    """Return how many messages a request makes of Telegram's limits.

    Args:
        method: Of the Bot API, in any case.
        field: Returns a field of the request, or None.
    """
    method = method.lower()
    if method in _SENDS_NOTHING or not _SENDS.match(method):
        return 0
    each = field(_EACH[method]) if method in _EACH else None
    try:
        return 1 if each is None else max(1, len(each))
    except TypeError:  # not a list: Telegram says so
        return 1


def _refusal(
    error: BaseException, asked: Callable[[BaseException], float | str | None]
) -> float | None:
    """Return the seconds that a 429 asks for, also of one inside another error."""
    for each in _unwrapped(error):
        seconds = asked(each)
        if isinstance(seconds, str):
            seconds = _said(seconds)
        if seconds is not None:
            return max(seconds, _SHORTEST)
    return None


def _unwrapped(error: BaseException, depth: int = 8) -> Iterator[BaseException]:
    yield error
    if depth == 0:
        return
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    # Not `__context__`: an error of a message that is sent while a 429 is handled is
    # another matter.
    for each in (*inner, error.__cause__):
        if each is not None:
            yield from _unwrapped(each, depth - 1)


def _said(text: str) -> float | None:
    found = _SAYS.search(text)
    if found is not None:
        return float(found[1])
    return _UNSAID if "too many requests" in text.lower() else None


class SendOptions(TypedDict, total=False):
    """Options of what sends for a bot.

    Attributes:
        overall: For every message of a bot; its key is ``"bot"``. It has to be given.
        chat: For each private chat; its key is ``"chat"``.
        group: For each group and channel; its key is ``"chat"``.
        timeout: Seconds that one request waits at most, all its tries together; None:
            for ever; default 60.
        retries: How often a request that got a 429 is sent again; default 3.
    """

    overall: Required[Rule]
    chat: Rule | None
    group: Rule | None
    timeout: float | None
    retries: int


class SendLimiter:
    """Waits for its place under the rules, sends, and obeys a 429.

    Args:
        limiter: Keeps the rules; they are added to it.
        asked: The framework's reading of one of its errors: seconds, or the text of an
            error that has none; None for what is no error of Telegram.
        overall: As of `SendOptions`, like all that follow.
        chat: Likewise.
        group: Likewise.
        timeout: Likewise.
        retries: Likewise.

    Raises:
        SettingsError: A rule counts by something else.
        RuleError: The limiter has another rule of that name.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        asked: Callable[[BaseException], float | str | None],
        *,
        overall: Rule,
        chat: Rule | None = None,
        group: Rule | None = None,
        timeout: float | None = 60.0,
        retries: int = 3,
    ) -> None:
        rules = [each for each in (chat, group) if each is not None]
        check_limiter(limiter, overall, *rules)
        if overall.key != "bot":
            raise SettingsError(f"rule {overall.name!r}: its key has to be 'bot'")
        for rule in rules:
            if rule.key != "chat":
                raise SettingsError(f"rule {rule.name!r}: its key has to be 'chat'")
            limiter.add(rule)
        limiter.add(overall)
        self._upstream = Upstream(
            limiter,
            retry_after=lambda error: _refusal(error, asked),
            timeout=timeout,
            retries=retries,
            longest=_LONGEST,
        )
        self._overall = overall
        self._chat = (overall,) if chat is None else (chat, overall)
        self._group = (overall,) if group is None else (group, overall)

    async def send(
        self,
        call: Callable[[], Awaitable[R]],
        *,
        bot: int,
        chat: int | str | None,
        messages: int,
        paid: bool,
        priority: Priority,
    ) -> R:
        """Send a request when the rules admit it; what the last try raises is raised.

        Args:
            call: Sends it.
            bot: The bot's id.
            chat: The chat's id, or its @name; None: it goes to none.
            messages: How many it counts for. Where a rule admits fewer at once, it
                takes all that the rule has. 0: it does not wait for the rules.
            paid: Telegram is paid not to count it among the bot's messages, so it costs
                nothing of `overall`; its chat's limit holds.
            priority: Of the waiting requests of this process, the highest goes first.

        Raises:
            RateLimited: It would have to wait for longer than the timeout.
            OddswireError: As `RateLimiter.acquire`.
        """
        rules: tuple[Rule, ...] = ()
        # Limits are a bot's: the same person may talk to two of them.
        subjects: dict[str, int | str] = {"bot": bot}
        if chat is not None and messages:
            chat = _known(chat)
            private = isinstance(chat, int) and chat > 0
            rules = self._chat if private else self._group
            if paid:
                rules = rules[:-1]
            subjects["chat"] = f"{bot}:{chat}"
        return await self._upstream.call(
            call,
            *(rule.name for rule in rules),
            cost={
                rule.name: min(messages, rule.limit.most // rule.cost) for rule in rules
            },
            priority=priority,
            retries=None,
            blocks=self._overall.name,
            **subjects,
        )


def _known(chat: int | str) -> int | str:
    """Return a chat as it is counted: a number as one, a name in lower case."""
    try:
        return int(chat)
    except ValueError:
        return str(chat).lower()
