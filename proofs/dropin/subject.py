"""One program on one class: ``python subject.py stock|ours program.py URL``.

Prints one line of JSON: what the program saw, by name, how many commands our client was
given, and on how many pools. The program's `run(url)` uses what others built on
`redis.asyncio`; it does not know which class it has.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import traceback
import warnings
from typing import Any, ClassVar

import redis.asyncio


class Used:
    """How many commands, pipelines and subscribers our client was asked for.

    And the pools that the clients were on; held, so that no two have one identity.
    """

    calls = 0
    pools: ClassVar[dict[int, Any]] = {}


def swap() -> None:
    """Put `oddswire.Client` in the place of redis-py's class, its calls counted."""
    from oddswire.client import Client

    class Subject(Client):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            Used.pools[id(self.connection_pool)] = self.connection_pool

        async def execute_command(self, *args: Any, **options: Any) -> Any:
            Used.calls += 1
            return await super().execute_command(*args, **options)

        def pipeline(self, *args: Any, **options: Any) -> Any:
            Used.calls += 1
            return super().pipeline(*args, **options)

        def pubsub(self, **options: Any) -> Any:
            Used.calls += 1
            return super().pubsub(**options)

    for module in (redis.asyncio, redis.asyncio.client):
        module.Redis = Subject
        module.StrictRedis = Subject


def main(subject: str, program: str, url: str) -> None:
    """Run the program on the class and print what it saw."""
    warnings.simplefilter("ignore")
    if subject == "ours":
        swap()
    spec = importlib.util.spec_from_file_location("program", program)
    # Registered, because some look for the module of a function that they decorate.
    module = sys.modules["program"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        outcomes = asyncio.run(asyncio.wait_for(module.run(url), 60))
        answer: dict[str, Any] = {"outcomes": outcomes}
    except Exception as error:  # noqa: BLE001 - any of theirs is an answer
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {error}"}
    used = {"calls": Used.calls, "pools": len(Used.pools)}
    print(json.dumps(answer | used, default=repr))


if __name__ == "__main__":
    main(*sys.argv[1:])
