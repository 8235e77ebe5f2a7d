"""Imports a module and prints the names of all that are loaded then."""

from __future__ import annotations

import importlib
import sys

importlib.import_module(sys.argv[1])
print(*sorted(sys.modules))
