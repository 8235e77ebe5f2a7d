"""`FannedOut`: a streaming provider of credentials for more than one listener.

A provider (Entra ID, IAM) has one callback for new tokens: the last registration
silences the others. But every client of that provider needs each token, and so do its
raw pub/sub objects: without it their connections end when the old token expires.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod, WeakValueDictionary, ref

from redis.credentials import StreamingCredentialProvider

from oddswire.errors import AuthFailed
from oddswire.logs import log_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = logging.getLogger("oddswire")

# The one subscription to each provider, while a client refers to either.
_fanned_out: WeakValueDictionary[int, FannedOut] = WeakValueDictionary()


def fan_out(provider: Any) -> Any:
    """Return what stands for a streaming provider; any other is returned as it is."""
    if not isinstance(provider, StreamingCredentialProvider):
        return provider
    if isinstance(provider, FannedOut):
        return provider
    found = _fanned_out.get(id(provider))
    if found is None:
        found = _fanned_out[id(provider)] = FannedOut(provider)
    return found


class FannedOut(StreamingCredentialProvider):
    """A provider whose tokens go to every callback; callbacks are held weakly.

    Args:
        provider: Whose tokens; its own callback is taken.
    """

    def __init__(self, provider: StreamingCredentialProvider) -> None:
        self.provider = provider
        # Each with the loop in which it was given: tokens may come in a thread.
        self._callbacks: list[
            tuple[Callable[[], Any], asyncio.AbstractEventLoop | None]
        ] = []
        self._running: set[asyncio.Future[Any]] = set()
        # Before the first token is asked for: without a callback nothing is renewed.
        # What is returned is for those that await it, as redis-py's own manager does.
        provider.on_next(self._next)  # type: ignore[arg-type]
        provider.on_error(self._error)  # type: ignore[arg-type]

    def get_credentials(self) -> Any:
        """Return the credentials of now (redis-py's)."""
        return self.provider.get_credentials()

    async def get_credentials_async(self) -> Any:
        """Return the credentials of now (redis-py's)."""
        return await self.provider.get_credentials_async()

    def on_next(self, callback: Callable[[Any], Any]) -> None:
        """Have each new token given to this callback too."""
        self._forget_the_dead()
        if all(known() != callback for known, _ in self._callbacks):
            weak = WeakMethod if inspect.ismethod(callback) else ref
            self._callbacks.append((weak(callback), _running_loop()))

    def on_error(self, callback: Callable[[Exception], Any]) -> None:
        """Take no callback: an error of the provider is a line in the log."""

    def is_streaming(self) -> bool:
        """Return whether it renews its tokens by itself."""
        return bool(self.provider.is_streaming())

    def _next(self, token: Any) -> Awaitable[None] | None:
        """Give a token to everybody.

        A provider with a loop awaits what is returned; one with a thread does not, and
        redis-py's own callbacks then run in the loop in which they were given.
        """
        self._forget_the_dead()
        loop = _running_loop()
        waiting = []
        for known, home in self._callbacks:
            result = callback(token) if (callback := known()) else None
            if loop is not None:
                if inspect.isawaitable(result):
                    waiting.append(result)
            elif inspect.iscoroutine(result):
                if home is None or home.is_closed():
                    result.close()
                else:
                    asyncio.run_coroutine_threadsafe(_all([result]), home)
        if loop is None:
            return None
        task = loop.create_task(_all(waiting), name="oddswire new credentials")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _forget_the_dead(self) -> None:
        self._callbacks = [each for each in self._callbacks if each[0]() is not None]

    def _error(self, error: Exception) -> Awaitable[None] | None:
        log_line(_log, logging.WARNING, "credentials_not_renewed", reason=error)
        loop = _running_loop()
        if loop is None:
            return None
        done = loop.create_future()
        done.set_result(None)
        return done


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _all(waiting: list[Any]) -> None:
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        if isinstance(result, Exception):
            log_line(_log, logging.WARNING, "reauthentication_failed", reason=result)


async def credentials_of(provider: Any) -> tuple[Any, Any]:
    """Return user and password of now.

    Raises:
        AuthFailed: The provider gave something else.
    """
    given = await provider.get_credentials_async()
    if not isinstance(given, tuple | list) or len(given) not in (1, 2):
        # Its type alone: what it gave may be a password.
        raise AuthFailed(
            f"the credential_provider returned {type(given).__name__}; give "
            "(username, password), or (password,) for the default user"
        )
    return (given[0], given[1]) if len(given) == 2 else (None, given[0])


async def credentials_in(token: Any, provider: Any) -> tuple[str | None, str]:
    """Return user and password of a new token.

    redis-py takes the user from the claim ``oid``, which only Entra ID's tokens have.
    """
    user = token.try_get("oid")
    if user is not None:
        return str(user), str(token.get_value())
    return await credentials_of(provider)
