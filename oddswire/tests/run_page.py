"""Runs blocks of a page, a JSON list on stdin, in their order and in one namespace.

A block may `await` at its top level, as in `python -m asyncio`. `url` is the address of
a server, and takes the place of the one that pages print; a port is any free one.
"""

import ast
import asyncio
import inspect
import json
import linecache
import sys

url = sys.argv[1]

with asyncio.Runner() as _runner:
    for _number, _block in enumerate(json.load(sys.stdin)):
        _text = _block.replace("redis://localhost:6379", url).replace("=9090", "=0")
        _name = f"<block {_number}>"
        # A traceback shows the lines of the block.
        linecache.cache[_name] = (
            len(_text),
            None,
            _text.splitlines(keepends=True),
            _name,
        )
        _code = compile(_text, _name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if _code.co_flags & inspect.CO_COROUTINE:
            _runner.run(eval(_code, globals()))
        else:
            exec(_code, globals())
