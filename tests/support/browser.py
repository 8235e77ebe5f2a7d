"""`Browser`: a headless Chromium, driven by the DevTools protocol; Debian's package."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

import aiohttp

from support.waiting import eventually

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--mute-audio",
    "--remote-debugging-port=0",
]

# The contrast of each text with what is behind it, by the formula of WCAG 2.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d",
    { willReadFrequently: true });
  const rgb = (css) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css;
    canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()
        || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    let behind = element, back = rgb(getComputedStyle(behind).backgroundColor);
    while (back[3] < 255 && behind.parentElement) {
      behind = behind.parentElement;
      back = rgb(getComputedStyle(behind).backgroundColor); }
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push([walker.currentNode.data.trim(), ratio]);
  }
  return low;
})()"""
# What has no name for a screen reader, and what is too small for a finger.
UNNAMED = """[...document.querySelectorAll("button, a, textarea, img, summary")]
  .filter((e) => !(e.textContent.trim() || e.alt || e.labels?.length))
  .map((e) => e.outerHTML)"""
SMALL = """[...document.querySelectorAll("nav a, .keys *, #write button, textarea")]
  .filter((e) => e.checkVisibility() && e.matches("a, button, textarea")
  && e.getBoundingClientRect().height < 43).map((e) => e.outerHTML)"""
WIDE = "document.documentElement.scrollWidth - innerWidth"


class Browser:
    """One tab of a Chromium with a profile of its own; `async with`.

    `errors` holds what its console and its network said was wrong.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._loaded: set[str] = set()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future] = {}
        self._session = None

    async def __aenter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = await asyncio.create_subprocess_exec(
            "chromium",
            *FLAGS,
            f"--user-data-dir={self._profile.name}",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        port = Path(self._profile.name) / "DevToolsActivePort"
        lines = await eventually(lambda: _lines(port), 40, holds=lambda at: len(at) > 1)
        self._http = aiohttp.ClientSession()
        url = f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        self._socket = await self._http.ws_connect(url, max_msg_size=0)
        self._reader = asyncio.Task(self._read(), name="devtools")
        targets = await self.call("Target.getTargets")
        page = next(t for t in targets["targetInfos"] if t["type"] == "page")
        attached = await self.call(
            "Target.attachToTarget", targetId=page["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call("Page.setLifecycleEventsEnabled", enabled=True)
        return self

    async def __aexit__(self, *_) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])
        await self._socket.close()
        await self._http.close()
        # Its helpers are of its group; they would outlive it.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await asyncio.to_thread(self._profile.cleanup)

    async def call(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        await self._socket.send_json(message)
        async with asyncio.timeout(30):
            return await answer

    async def size(self, width, height, *, dark=False) -> None:
        """Take the size of a device, in light or dark."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {
            "name": "prefers-color-scheme",
            "value": "dark" if dark else "light",
        }
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def open(self, url) -> None:
        """Go to an address, and wait until its page is there."""
        found = await self.call("Page.navigate", url=url)
        # The page before may answer yet, so the load of this one is waited for.
        if "loaderId" in found:
            await eventually(lambda: found["loaderId"] in self._loaded)
        await self.until("document.readyState === 'complete'")

    async def run(self, script):
        """Return the value of an expression of JavaScript.

        Raises:
            AssertionError: It threw.
        """
        answer = await self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, script, within=20.0):
        """Wait until an expression is true, and return its value."""

        async def look():
            try:
                return await self.run(script)
            except (AssertionError, KeyError):
                return None  # the page is just changing

        return await eventually(look, within, pause=0.02)

    async def type(self, text) -> None:
        """Type where the focus is."""
        await self.call("Input.insertText", text=text)

    async def key(self, key, code, *, shift=False) -> None:
        """Press a key, such as Enter (13) or Tab (9)."""
        event = {
            "key": key,
            "code": key,
            "windowsVirtualKeyCode": code,
            "modifiers": 8 if shift else 0,
        }
        text = {"text": "\r"} if key == "Enter" else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    async def screenshot(self, path) -> None:
        """Write what is seen as a PNG."""
        answer = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))

    async def _read(self) -> None:
        async for frame in self._socket:
            message = json.loads(frame.data)
            answer = self._answers.pop(message.get("id"), None)
            if answer is not None and not answer.done():
                error = message.get("error")
                if error is None:
                    answer.set_result(message["result"])
                else:
                    answer.set_exception(AssertionError(error))
            elif message.get("method") == "Page.lifecycleEvent":
                if message["params"]["name"] == "load":
                    self._loaded.add(message["params"]["loaderId"])
            elif message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            elif message.get("method") == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] == "error":
                    self.errors.append(f"{entry['text']} {entry.get('url', '')}")
            elif (
                message.get("method") == "Runtime.consoleAPICalled"
                and message["params"]["type"] == "error"
            ):
                self.errors.append(str(message["params"]["args"]))


def _lines(path):
    return path.read_text().splitlines() if path.exists() else []
