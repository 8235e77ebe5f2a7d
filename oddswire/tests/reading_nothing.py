"""A process that ends when the import of oddswire reads a variable."""

from __future__ import annotations

import logging
import os


class Watched(dict):
    """An environment of which nothing is ours to read."""

    def _watch(self, name):
        if str(name).startswith(("REDIS", "ODDSWIRE", "SESSION", "CACHE")):
            raise SystemExit(f"read {name}")

    def __getitem__(self, name):
        self._watch(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        """Return a variable that is not ours."""
        self._watch(name)
        return super().get(name, default)


os.environ = Watched(os.environ)  # noqa: B003, TID251 (of this process alone)

import oddswire  # noqa: E402 (it is watched)

for name in oddswire.__all__:
    getattr(oddswire, name)
assert not logging.getLogger().handlers
assert not logging.getLogger("oddswire").handlers
