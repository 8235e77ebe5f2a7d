"""A process that imports `SimpleClient` and says what that took and brought along."""

from __future__ import annotations

import importlib
import sys
from time import perf_counter

began = perf_counter()
for name in ("redis.asyncio", "hiredis", "msgspec"):
    importlib.import_module(name)
theirs = perf_counter()
_ = importlib.import_module("oddswire").SimpleClient
print((perf_counter() - theirs) / (theirs - began))
print(*sorted(name for name in sys.modules if name.startswith("oddswire.")))
