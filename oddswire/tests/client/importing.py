"""A process that imports `SimpleClient` and says what that took and brought along."""

from __future__ import annotations

import importlib
import sys
from time import process_time

began = process_time()
for name in ("redis.asyncio", "hiredis", "msgspec"):
    importlib.import_module(name)
theirs = process_time()
_ = importlib.import_module("oddswire").SimpleClient
print((process_time() - theirs) / (theirs - began))
print(*sorted(name for name in sys.modules if name.startswith("oddswire.")))
