from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.keys import UPDATE_SEEN, KeySpace
from oddswire.queue import Queue
from support import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCS = Path(__file__).parents[2] / "docs"
README = Path(__file__).parents[2] / "README.md"


@pytest.mark.integration
@pytest.mark.requirement("G3")
def test_an_application_with_its_own_settings_and_logging_runs():
    """The library logs through the application's logging and adds no handler."""
    run = subprocess.run(
        [sys.executable, EXAMPLES / "own_application.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert run.stdout == "hello, visitor 1\n"
    said = [line.split(":")[0] for line in run.stderr.splitlines()]
    # The command connection and the cache's come, which the library says too, and go.
    assert said == ["oddswire.wire", *["oddswire", "shop"] * 2, "shop", "shop"]


@pytest.mark.integration
@pytest.mark.requirement("G3", "P5")
async def test_a_worker_with_its_own_settings_and_logging_runs(server, prefix):
    """It delivers what others enqueue, logs the application's way, ends on SIGTERM."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, EXAMPLES / "worker.py"),
        env={"REDIS_URL": server.url, "REDIS_KEY_PREFIX": prefix},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with Client.from_url(server.url) as client:
        queue = Queue(client, "messages", dict, prefix=prefix)
        for user in (3, 4):
            await queue.enqueue(user, {"text": "hello"}, dedup_id="hello")
        assert await worker.stdout.readline() == b"4: hello\n"
        worker.terminate()
        _, said = await worker.communicate()
        (letter,) = await queue.dead()
        assert letter.user_id == 3
    assert worker.returncode == 0
    lines = [json.loads(line) for line in said.splitlines()]
    sources = {line["from"] for line in lines}
    assert sources == {"greeter", "oddswire", "oddswire.queue"}


@pytest.mark.integration
async def test_a_worker_that_is_alone_shows_itself():
    """Without a server it starts one, delivers, and ends on Ctrl-C."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, EXAMPLES / "worker.py"),
        env={},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    said = [await worker.stdout.readline() for _ in range(2)]
    worker.send_signal(signal.SIGINT)
    assert await worker.wait() == 0
    assert sorted(said) == [b"1: hello\n", b"2: hello\n"]


@pytest.mark.integration
@pytest.mark.requirement("P7")
async def test_prices_reach_websockets():
    """What is published reaches each websocket that wants it."""
    import aiohttp

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLES / "websocket_prices.py",
        "0",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            url = (await process.stdout.readline()).decode().strip()
            async with (
                session.ws_connect(url) as all_,
                session.ws_connect(f"{url}?market=0x1") as one,
                session.ws_connect(url) as leaves,
            ):
                await leaves.close()
                for _ in range(3):
                    said = await one.receive_json()
                    assert said["market"] == "0x1"
                    assert said["price"]["ask"] > said["price"]["bid"]
                markets = set()
                while len(markets) < 5:
                    markets.add((await all_.receive_json())["market"])
    finally:
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


@pytest.mark.integration
def test_the_ten_lines_of_the_readme_run(tmp_path):
    """What the first page shows works as it is printed there."""
    text = README.read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) <= 10
    script = tmp_path / "readme.py"
    script.write_text(code)

    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=60
    )

    assert "b'bid': b'0.59'" in run.stdout


@pytest.mark.integration
@pytest.mark.parametrize(("page", "says"), [("pubsub", "0x1 Yes\n")])
def test_the_example_of_a_page_runs(tmp_path, page, says):
    """What a page shows first works as it is printed there."""
    text = (DOCS / "guides" / f"{page}.md").read_text()
    script = tmp_path / f"{page}_page.py"
    script.write_text(text.split("```python\n")[1].split("```")[0])

    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=60
    )

    assert run.stdout == says


@pytest.mark.basic
@pytest.mark.requirement("G3")
def test_importing_the_library_reads_and_configures_nothing():
    """No environment variable is read and no logging set up by an import."""
    subprocess.run(
        [sys.executable, Path(__file__).with_name("reading_nothing.py")],
        check=True,
        timeout=60,
    )


@pytest.mark.integration
@pytest.mark.requirement("G3", "K3")
def test_the_smallest_cache_loads_once(server):
    """A thousand callers are one load, and an invalidated tag is one more."""
    run = subprocess.run(
        [sys.executable, EXAMPLES / "minimal_cache.py"],
        env={"REDIS_URL": server.url},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert run.stdout.splitlines() == [
        "asked 1000 times, loaded 1 time",
        "after the invalidation, loaded 2 times",
    ]


@pytest.mark.integration
@pytest.mark.requirement("G3")
def test_the_asgi_example_refuses_the_fourth_request():
    """A whole application, from startup to shutdown, on a server of its own."""
    run = subprocess.run(
        [sys.executable, EXAMPLES / "asgi_app.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = run.stdout.splitlines()
    assert [line[:3] for line in lines] == ["200", "200", "200", "429"]
    assert '"yes": "0.61"' in lines[0]


async def bot(name, telegram, server, talk):
    """Run a bot of the examples while `talk` runs; it ends by itself on SIGINT."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, EXAMPLES / name, "42:TEST"),
        *("--api", telegram.url, "--redis", server.url),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await talk
        process.send_signal(signal.SIGINT)
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, said.decode()


def command(message_of, number, text):
    """Return a message that is a command."""
    update = message_of(number, text=text)
    entity = {"type": "bot_command", "offset": 0, "length": len(text)}
    update["message"]["entities"] = [entity]
    return update


@pytest.mark.integration
@pytest.mark.requirement("G3", "S9")
async def test_the_aiogram_example_goes_on_where_it_was_stopped(telegram, message_of):
    """An order survives the process: the second one knows the total of the first."""
    async with EmbeddedServer() as server:  # their prefix is fixed

        async def order():
            await telegram.deliver(command(message_of, 1, "/start"))
            await telegram.says("How much?")
            await telegram.deliver(message_of(2, text="0.5"))
            await telegram.says("0.5 in all")
            # Else the process may be stopped before it has noted that it handled this,
            # and the next one adds it again.
            key = KeySpace("shop:").key(UPDATE_SEEN, 42, 2)
            async with Client.from_url(server.url) as client:
                await eventually(lambda: client.get(key), holds=lambda it: it == b"1")

        async def more():
            await telegram.deliver(message_of(3, text="1.1"))
            await telegram.says("1.6 in all")

        await bot("aiogram_bot.py", telegram, server, order())
        await bot("aiogram_bot.py", telegram, server, more())


@pytest.mark.integration
@pytest.mark.requirement("G3", "S9")
async def test_the_ptb_example_goes_on_where_it_was_stopped(telegram, message_of):
    """A count survives the process."""
    async with EmbeddedServer() as server:

        async def visit(number):
            await telegram.deliver(command(message_of, number, "/start"))
            await telegram.says(f"visit {number}")

        await bot("ptb_bot.py", telegram, server, visit(1))
        telegram.forget()
        await bot("ptb_bot.py", telegram, server, visit(2))
