"""Start `oddsbot demo`, open its page once, end it; print the seconds it took.

``--alone`` is for a network namespace of its own: its loopback is down at first, and
there is no other network. `check_wheels.py` runs it with the built wheels.
"""

from __future__ import annotations

import http.cookiejar
import os
import re
import subprocess
import sys
import time
import urllib.request


def main() -> None:
    """Print how long it took, or end with why the page did not come."""
    if "--alone" in sys.argv:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607
    began = time.monotonic()
    demo = subprocess.Popen(
        [sys.executable, "-P", "-m", "oddsbot", "demo", "--browser"],
        env={**os.environ, "ODDSWIRE_PROFILE": "test"},  # noqa: TID251 - its own child
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert demo.stdout is not None  # noqa: S101 - it is a pipe
        address = next(
            (
                found[0]
                for line in demo.stdout
                if (found := re.search(r"http://\S+", line))
            ),
            None,
        )
        if address is None:
            sys.exit("demo: it ended without an address")
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        page = urllib.request.build_opener(cookies).open(address, timeout=10).read()
        took = time.monotonic() - began
        if b"Live layer" not in page:
            sys.exit("demo: its page has no live layer")
    finally:
        demo.terminate()
        code = demo.wait(30)
    if code:
        sys.exit(f"demo: it ended with {code}")
    print(f"{took:.1f}")


if __name__ == "__main__":
    main()
