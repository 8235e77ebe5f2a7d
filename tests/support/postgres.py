"""A PostgreSQL of the tests' own, in a folder, on a unix socket, never as root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from time import monotonic, sleep

BIN = Path("/usr/lib/postgresql")


def command(name):
    """Return where a program of PostgreSQL is; Debian keeps them out of PATH."""
    found = shutil.which(name)
    return found or str(max(BIN.glob(f"*/bin/{name}")))


class Postgres:
    """A cluster: `start`, `kill`, `stop`.

    Attributes:
        url: What the bot is given.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.url = f"postgresql://bot@/postgres?host={self.folder}"
        self._as = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
            self._as = [
                "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups",
            ]  # fmt: skip
        self._run(
            "initdb", "-U", "bot", "-A", "trust", "--no-sync", "-E", "UTF8",
            "--locale=C", "-D", self.folder / "data",
        )  # fmt: skip
        self.process = None

    def _run(self, name, *args):
        subprocess.run(
            [*self._as, command(name), *map(str, args)],
            check=True, capture_output=True, cwd=self.folder,
        )  # fmt: skip

    def start(self):
        """Start the server, and return when it answers."""
        deadline = monotonic() + 20
        while True:
            if self.process is None or self.process.poll() is not None:
                # After a kill, the old one's children hold its memory for a moment.
                log = (self.folder / "log").open("ab")
                self.process = subprocess.Popen(
                    [
                        *self._as, command("postgres"), "-D", self.folder / "data",
                        "-k", self.folder, "-c", "listen_addresses=",
                        "-c", "shared_buffers=16MB", "-c", "max_connections=60",
                    ],
                    stdout=log, stderr=log, cwd=self.folder,
                )  # fmt: skip
                log.close()
            ready = subprocess.run(
                [command("pg_isready"), "-q", "-h", str(self.folder)], check=False
            )
            if ready.returncode == 0:
                return
            assert monotonic() < deadline, (self.folder / "log").read_text()
            sleep(0.02)

    def kill(self):
        """Kill it (SIGKILL); its children end by themselves."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """Stop it, and remove everything."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()
        shutil.rmtree(self.folder)
