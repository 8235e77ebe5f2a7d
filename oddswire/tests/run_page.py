"""Runs the Python blocks of a page in their order, in one namespace, as one session.

A block may `await` at its top level, as in `python -m asyncio`. `url` is a server's.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import sys
from pathlib import Path

PAGE = Path(sys.argv[1])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)

url = os.environ["URL"]  # noqa: TID251 - from the test

with asyncio.Runner() as _runner:
    for _number, _block in enumerate(BLOCK.findall(PAGE.read_text("utf-8"))):
        # Comments in place of the blocks before: a traceback names the block's line.
        _code = compile(
            _block,
            f"{PAGE.name}, block {_number}",
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        if _code.co_flags & inspect.CO_COROUTINE:
            _runner.run(eval(_code, globals()))
        else:
            exec(_code, globals())
