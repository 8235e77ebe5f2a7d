"""`Status`: health, metrics and a page that shows how a process is. Extra ``web``.

One aiohttp application that a service listens with, or mounts in its own:

| path | answers | token |
|---|---|---|
| ``/livez`` | the loop runs; Redis is not asked | no |
| ``/readyz`` | whether the process can serve; with the token, the checks too | no |
| ``/startupz`` | whether it could serve at least once | no |
| ``/metrics`` | Prometheus' text format | yes |
| ``/status.json`` | `Overview` | yes |
| ``/status`` | the same as a page | yes |
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Self

import msgspec
from aiohttp import web
from jinja2 import Environment, StrictUndefined

from oddswire._tasks import spawn
from oddswire.clock import SystemClock
from oddswire.errors import OddswireError
from oddswire.plain import plain
from oddswire.web.access import Access, Answer
from oddswire.web.guard import LOOPBACK, client_address
from oddswire.web.listener import Listener
from oddswire.web.overview import LatencyStrip, Look, Overview, overview

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from ssl import SSLContext
    from types import ModuleType

    from aiohttp.typedefs import Handler

    from oddswire.clock import Clock
    from oddswire.health import Health, Report
    from oddswire.metrics import Metrics

_HEALTH_JSON = "application/health+json"
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
_OPEN = ("/livez", "/readyz", "/startupz")


class Status:
    """Looks at Redis every `interval` seconds, and answers requests from memory.

    No request makes it ask Redis, however many come. `app` is the application:
    `listener` serves it alone, and ``main.add_subapp("/ops/", status.app)`` mounts it
    in another application, whose own listener then judges Host and Origin.

    Args:
        metrics: The metrics of the process.
        health: The health of the process, with the checks that its parts added.
        token: Needed for `/metrics`, `/status`, `/status.json` and the details of
            `/readyz`; see `Access`. None: everybody who reaches the listener sees them.
        interval: Seconds between two looks.
        sample: Seconds between two samples of sessions and queues.
        proxies: The networks of the proxies whose X-Forwarded-For is trusted.
        clock: The time.

    Raises:
        SettingsError: The token is too short, or cannot stand in a header.

    Example:
        >>> async with Status(wire.metrics, wire.health) as status:
        ...     async with status.listener(port=9090):
        ...         await work()
    """

    def __init__(
        self,
        metrics: Metrics,
        health: Health,
        *,
        token: str | None = None,
        interval: float = 5.0,
        sample: float = 15.0,
        proxies: Collection[str] = (),
        clock: Clock | None = None,
    ) -> None:
        self._metrics = metrics
        self._health = health
        self._clock = clock or SystemClock()
        self._access = Access(token, self._clock)
        self._interval = interval
        self._sample = sample
        self._proxies = tuple(proxies)
        self._strip = LatencyStrip()
        self._report: Report | None = None
        self._looked = 0.0
        self._started = False
        self._tasks: list[asyncio.Task[None]] = []
        self._page: _Page | None = None
        self._exposition: Callable[[], bytes] | None = None
        self.app = web.Application(middlewares=[self._protect])
        for path, answer in (
            ("/livez", self._livez),
            ("/readyz", self._readyz),
            ("/startupz", self._startupz),
            ("/metrics", self._scrape),
            ("/status.json", self._json),
            ("/status", self._html),
        ):
            self.app.router.add_get(path, answer)

    def listener(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        names: Sequence[str] = LOOPBACK,
        tls: SSLContext | None = None,
    ) -> Listener:
        """Return a `Listener` of this application alone; the arguments are its own."""
        return Listener(
            self.app,
            host=host,
            port=port,
            names=names,
            tls=tls,
            token=self._access.protected,
        )

    async def __aenter__(self) -> Self:
        self._tasks = [
            spawn(self._look_for_ever(), name="status looks"),
            spawn(self._sample_for_ever(), name="status samples"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def overview(self) -> Overview:
        """Return what the page shows now, from memory."""
        snapshot = self._metrics.snapshot()
        return overview(snapshot, self._metrics.journal, self._look(), self._strip)

    # --- looking

    async def _look_for_ever(self) -> None:
        while True:
            self._report = await self._health.check()
            self._looked = self._clock.monotonic()
            self._strip.add(self._metrics.snapshot())
            self._started = self._started or not self._look().obstacles
            await self._clock.sleep(self._interval)

    async def _sample_for_ever(self) -> None:
        while True:
            # The failure is counted, and the age of the last sample shows it.
            with suppress(OddswireError):
                await self._metrics.sample()
            await self._clock.sleep(self._sample)

    def _look(self) -> Look:
        return Look(
            report=self._report,
            added=self._health.added,
            age=self._clock.monotonic() - self._looked,
            # A look takes a few seconds at most: this is three looks that did not come.
            patience=3 * self._interval + 5.0,
        )

    # --- answering

    @web.middleware
    async def _protect(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        try:
            response = await self._admit(request, handler)
        except web.HTTPException as error:
            # An error that aiohttp raises gets the headers too.
            _harden(error)
            raise
        _harden(response)
        return response

    async def _admit(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = "" if resource is None else resource.canonical
        if path.endswith(_OPEN):
            return await handler(request)
        answer = self._judge(request)
        if answer is Answer.LATER:
            return web.Response(
                status=429, text="429: too many\n", headers={"Retry-After": "60"}
            )
        if answer is Answer.NO:
            realm = {"WWW-Authenticate": 'Basic realm="status", charset="UTF-8"'}
            return web.Response(status=401, text="401: a token\n", headers=realm)
        return await handler(request)

    def _judge(self, request: web.Request) -> Answer:
        headers = request.headers
        address = client_address(
            request.remote or "",
            headers.getall("X-Forwarded-For", ()),
            self._proxies,
        )
        return self._access.judge(headers.getall("Authorization", ()), address)

    async def _livez(self, _: web.Request) -> web.Response:
        return _health(200, {"status": "pass"})

    async def _readyz(self, request: web.Request) -> web.Response:
        seen = self.overview()
        body: dict[str, Any] = {"status": seen.status if seen.ready else "fail"}
        if self._judge(request) is Answer.YES:
            body["output"] = seen.sentence
            body["checks"] = {
                check.name: [
                    {"status": _draft(check.status), "observedValue": check.values}
                ]
                for check in seen.checks
            }
        return _health(200 if seen.ready else 503, body)

    async def _startupz(self, _: web.Request) -> web.Response:
        if self._started:
            return _health(200, {"status": "pass"})
        return _health(503, {"status": "fail"})

    async def _scrape(self, _: web.Request) -> web.Response:
        if self._exposition is None:
            prometheus = await asyncio.to_thread(_prometheus)  # it reads files
            collector = prometheus.Collector(self._metrics)
            self._exposition = partial(prometheus.exposition, collector)
        return web.Response(
            body=self._exposition(), headers={"Content-Type": _EXPOSITION}
        )

    async def _json(self, _: web.Request) -> web.Response:
        return web.Response(
            body=msgspec.json.encode(self.overview()), content_type="application/json"
        )

    async def _html(self, _: web.Request) -> web.Response:
        if self._page is None:
            self._page = await asyncio.to_thread(_Page)  # it reads files
        return web.Response(
            text=self._page.render(self.overview(), self._interval),
            content_type="text/html",
            headers={"Content-Security-Policy": self._page.policy},
        )


class _Page:
    """The page's template, and the policy that lets its own style and script run."""

    def __init__(self) -> None:
        home = files("oddswire.web")
        style, script, template = (
            (home / name).read_text(encoding="utf-8")
            for name in ("status.css", "status.js", "status.html")
        )
        environment = Environment(autoescape=True, undefined=StrictUndefined)
        environment.filters |= {
            "clock": _clock_time,
            "short": _seconds,
            "share": _share,
            "count": _count,
            # A name that code gives is treated as any text from outside.
            "plain": lambda text: plain(str(text)),
        }
        environment.globals |= {"style": style, "script": script}
        self._template = environment.from_string(template)
        self.policy = (
            "default-src 'none'; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'; "
            f"style-src 'sha256-{_digest(style)}'; "
            f"script-src 'sha256-{_digest(script)}'"
        )

    def render(self, seen: Overview, interval: float) -> str:
        """Return the page."""
        # The height of a bar is its p99; the tallest bar fills the strip.
        tallest = max((point.p99 or 0.0 for point in seen.latency), default=0.0)
        return self._template.render(
            seen=seen, tallest=tallest or 1.0, interval=max(2, round(interval))
        )


def _prometheus() -> ModuleType:
    try:
        from oddswire.metrics import prometheus  # noqa: PLC0415 - an extra
    except ImportError:
        raise web.HTTPNotImplemented(
            reason="oddswire[prometheus] is not installed"
        ) from None
    return prometheus


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _harden(response: web.StreamResponse) -> None:
    response.headers.update(
        {
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
    )
    # The page has a policy of its own, which allows its style and script.
    response.headers.setdefault(
        "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"
    )


def _health(status: int, body: dict[str, Any]) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type=_HEALTH_JSON
    )


def _draft(status: str) -> str:
    # The draft of health+json knows three statuses.
    return status if status in ("pass", "warn", "fail") else "warn"


def _clock_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 1.0:
        return f"{value * 1e3:.1f} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.0f} min"


def _share(value: float) -> str:
    return f"{value * 100:.1f} %"


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
