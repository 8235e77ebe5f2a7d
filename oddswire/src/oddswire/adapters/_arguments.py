"""What adapters are given: each refusal is a `SettingsError` that names it."""

from __future__ import annotations

from oddswire._numbers import shown
from oddswire.errors import SettingsError
from oddswire.ratelimit import RateLimiter, Rule


def check_limiter(limiter: object, *rules: object) -> None:
    """Refuse what is no rate limiter, and what is no rule.

    Raises:
        SettingsError: One of them is something else, such as a client or a name.
    """
    if not isinstance(limiter, RateLimiter):
        # Not repeated: it may be a URL with a password.
        raise SettingsError(
            f"limiter must be an oddswire.ratelimit.RateLimiter, not "
            f"{type(limiter).__name__}: give wire.limiter"
        )
    for rule in rules:
        if not isinstance(rule, Rule):
            raise SettingsError(
                f"a rule must be an oddswire.ratelimit.Rule, not {shown(rule)}"
            )


def check_callable(name: str, function: object) -> None:
    """Refuse what cannot be called.

    Raises:
        SettingsError: It cannot.
    """
    if not callable(function):
        raise SettingsError(f"{name} must be a function, not {shown(function)}")
