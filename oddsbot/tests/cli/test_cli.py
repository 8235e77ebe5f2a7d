from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

from oddsbot.cli import main
from oddsbot.standin.polymarket import sample
from oddsbot.standin.telegram import BotApi
from oddswire.clock import SystemClock
from support import eventually
from support.forked import CLEAN

TOKEN = "42:A-token-of-the-stand-in"


async def run_anew(folder, *program: str, **environ: str) -> tuple[int, str, str]:
    """Run a program of Python in a new process, as a person does, to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "default"),  # what is left open is said on stderr
        *program,
        cwd=folder,
        env=CLEAN | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def one_line(err: str) -> str:
    """Return what stderr says, which has to be one line and no traceback."""
    (line,) = err.strip().splitlines()
    assert line.startswith("oddsbot: ")
    return line


@pytest.mark.basic
async def test_help_tells_what_there_is(tmp_path):
    """Both helps name the command, its options and its exit codes."""
    code, out, _ = await run_anew(tmp_path, "-m", "oddsbot", "--help")
    assert code == 0
    assert "demo" in out

    code, out, _ = await run_anew(tmp_path, "-m", "oddsbot", "demo", "--help")
    assert code == 0
    for option in ("--recording", "--speed", "--seconds", "--headless", "--json"):
        assert option in out
    assert "exit code is 1" in out


@pytest.mark.requirement("B5")
@pytest.mark.integration
async def test_a_headless_run_prints_one_json_object(oddsbot):
    """Stdout is one object of a stable form, the alerts are on stderr."""
    code, out, err = await oddsbot(
        "demo", "--headless", "--json", "--seconds", "1", "--speed", "1200"
    )

    assert code == 0, err
    report = json.loads(out)
    assert report["schema_version"] == 1
    assert report.keys() == {
        "schema_version",
        "interrupted",
        "seconds",
        "speed",
        "recording",
        "feed",
        "alerts",
        "latency_ms",
        "redis",
        "outbox",
        "check",
    }
    assert report["alerts"].keys() == {"Ana", "Ben", "Chloe"}
    assert report["latency_ms"].keys() == {"p50", "p99", "max"}
    assert report["check"]["agrees"]
    assert report["recording"]["seconds_played"] == 1_200.0
    alerts = [line for line in err.splitlines() if ": Up " in line or ": Down " in line]
    assert 0 < len(alerts) <= sum(report["alerts"].values())


@pytest.mark.basic
async def test_a_headless_run_prints_its_alerts_and_a_summary(oddsbot):
    """Without --json the alerts and the summary are lines on stdout, stderr is empty.

    But for the limiter, which a busy machine may keep past its deadline of 50 ms.
    """
    code, out, err = await oddsbot(
        "demo", "--headless", "--seconds", "0.5", "--speed", "2400"
    )

    known = ("degraded part=limiter ", "restored part=limiter ")
    said = [line for line in err.splitlines() if not line.startswith(known)]
    assert (code, said) == (0, [])
    assert "Chloe: Up above " in out
    assert "finished: 1,200 recorded seconds" in out
    assert "tick to delivery: p50 " in out
    assert "check: exactly the " in out


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of the processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(words.decode())
        except OSError:
            continue
    return found


@pytest.mark.requirement("C13")
@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_in_order(tmp_path, number, oddsbot):
    """Ctrl-C mid-run: what was found is delivered, the code is 0, nothing is left."""
    data = tmp_path / "data"
    command = await oddsbot.start(
        "demo", "--json", "--speed", "60", "--data-dir", str(data)
    )
    assert await command.stderr.readline()  # the first alert
    before = await asyncio.to_thread(processes_of, tmp_path)
    command.send(number)
    code, out, err = await command.end()

    assert code == 0, err
    report = json.loads(out)
    assert report["interrupted"]
    assert report["check"]["agrees"]
    assert report["outbox"]["pending"] == report["outbox"]["lag"] == 0
    assert any("valkey" in words or "redis" in words for words in before)
    assert await asyncio.to_thread(processes_of, tmp_path) == []


def damaged(folder: Path) -> Path:
    """Write a copy of the sample with a broken line at its third place."""
    lines = gzip.decompress(sample().read_bytes()).splitlines(keepends=True)
    path = folder / "damaged.books.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join([*lines[:2], b"{!\n", *lines[2:]]), 1))
    markets = sample().with_name(
        sample().name.replace(".books.jsonl.gz", ".markets.json")
    )
    path.with_name("damaged.markets.json").write_bytes(markets.read_bytes())
    return path


@pytest.mark.errors
async def test_a_damaged_line_is_counted_and_the_run_goes_on(tmp_path, oddsbot):
    """A recording with a broken line plays without it; the report counts it."""
    path = await asyncio.to_thread(damaged, tmp_path)
    code, out, err = await oddsbot(
        "demo", "--json", "--speed", "inf", "--recording", str(path)
    )

    assert code == 0, err
    report = json.loads(out)
    assert report["recording"]["skipped_lines"] == 1
    assert report["recording"]["first_skipped"].startswith("line 3: ")
    assert report["check"]["agrees"]
    assert sum(report["alerts"].values()) == 61


@pytest.mark.errors
@pytest.mark.parametrize(
    ("args", "environ", "says"),
    [
        (["--recording", "no.books.jsonl.gz"], {}, "is not there"),
        (["--recording", "a.csv"], {}, "*.books.jsonl.gz"),
        (["--speed", "0"], {}, "give a number above 0, like 60"),
        (["--seconds", "-3"], {}, "give a number above 0, like 20"),
        (["--port", "65536"], {}, "give one from 1 to 65535"),
        ([], {"ODDSWIRE_PROFILE": "prodction"}, "ODDSWIRE_PROFILE"),
        ([], {"REDIS_URL": "redis//user:hunter2@host"}, "REDIS_URL"),
        ([], {"POLYMARKET_WS_URL": "polymarket.com"}, "give one like wss://"),
        (["--data-dir", "/proc/self/nowhere"], {}, "/proc/self/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    tmp_path, monkeypatch, capsys, args, environ, says
):
    """A wrong option or variable: one line that says what to do, no traceback."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - CLEAN.keys():  # noqa: TID251 - as in CLEAN
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    # Here, and not in a process for each: nothing has begun when it is refused.
    monkeypatch.setattr(sys, "argv", ["oddsbot", "demo", "--json", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()

    assert (ended.value.code, out) == (2, "")
    assert says in one_line(err)
    assert "hunter2" not in err


@pytest.mark.errors
async def test_a_port_in_use_is_one_line_and_code_2(oddsbot):
    """The port of the recorded Polymarket is taken: it is named, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, out, err = await oddsbot("demo", "--json", "--port", port)

    assert (code, out) == (2, "")
    assert f"port {port}" in one_line(err)
    assert "choose another one" in err


@pytest.mark.errors
async def test_no_permission_on_the_data_directory_is_one_line(tmp_path):
    """A data directory that this user may not write: named, with what to do."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    # root may write everywhere, so the command gives that up before it looks.
    script = tmp_path / "as_nobody.py"
    script.write_text(
        "import encodings.ascii, os, sys\n"
        "import oddsbot.cli, oddsbot.demo.run\n"
        "from oddswire import EmbeddedServer\n"
        "class AsNobody(EmbeddedServer):\n"
        "    async def __aenter__(self):\n"
        "        if os.getuid() == 0:\n"
        "            os.setuid(65534)\n"
        "        return await super().__aenter__()\n"
        "sys.modules['oddsbot.demo.run'].EmbeddedServer = AsNobody\n"
        "oddsbot.cli.main()\n"
    )
    args = ("demo", "--json", "--data-dir", str(locked))
    # Nobody may be unable to look into the packages; this program is never run, since
    # the directory is refused first.
    code, out, err = await run_anew(
        tmp_path, str(script), *args, ODDSWIRE_SERVER_BIN="/bin/sh"
    )

    assert (code, out) == (2, ""), err
    assert str(locked) in one_line(err)


@pytest.mark.errors
async def test_an_unknown_option_is_a_usage_error(oddsbot):
    """A mistyped option: the usage and code 2, no traceback."""
    code, _, err = await oddsbot("demo", "--sped", "60")

    assert code == 2
    assert "--sped" in err
    assert "Traceback" not in err


@pytest.mark.errors
async def test_a_disagreement_is_code_1(tmp_path):
    """When the checker finds an alert missing, the report says which, and code 1."""
    script = tmp_path / "faulty.py"
    script.write_text(
        "from oddsbot.alerts import Alerts\n"
        "from oddsbot.cli import main\n"
        "on_resolved = Alerts.on_resolved\n"
        "Alerts.on_resolved = lambda *args: on_resolved(*args)[1:]\n"
        "main()\n"
    )
    args = ("demo", "--json", "--speed", "inf")
    code, out, _ = await run_anew(tmp_path, str(script), *args)

    assert code == 1
    check = json.loads(out)["check"]
    assert not check["agrees"]
    assert [line.partition(":")[0] for line in check["missing"]] == ["Ana", "Ana"]


@pytest.mark.integration
@pytest.mark.requirement("B10")
async def test_a_bot_talks_to_the_stand_in_of_another_process(oddsbot):
    """`standin telegram --json` prints where it serves; SIGTERM ends it in order."""
    command = await oddsbot.start("standin", "telegram", "--json")
    told = json.loads(await command.stdout.readline())
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address, too
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        async with http.get(f"{told['api']}/bot{told['token']}/getMe") as answer:
            assert (await answer.json())["result"]["is_bot"] is True
        async with http.get(told["page"]) as page:
            assert 'id="say"' in await page.text()
    command.send(signal.SIGTERM)
    assert await command.end() == (0, "", "")


@pytest.mark.integration
@pytest.mark.requirement("B10")
async def test_the_polymarket_standin_serves_until_it_is_told_to_stop(oddsbot):
    """`standin polymarket` serves every part, with the switches of its command line."""
    command = await oddsbot.start(
        "standin", "polymarket", "--json", "--switch", "error=/v2/trades",
        "--switch", "late=30",
    )  # fmt: skip
    told = json.loads(await command.stdout.readline())
    key = {"Authorization": f"Bearer {told['control']}"}
    async with aiohttp.ClientSession() as http:
        for status in (500, 200):
            async with http.get(f"{told['data']}/v2/trades") as answer:
                assert answer.status == status
        async with http.get(told["page"]) as page:
            assert "simulated" in await page.text()
        async with http.post(f"{told['page']}control", data="{}", headers=key) as was:
            assert (await was.json())["switches"]["late"] == 30
    command.send(signal.SIGTERM)
    assert await command.end() == (0, "", "")


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_a_switch_that_is_none_is_one_line(oddsbot):
    """A misspelt switch is said in a line, with those that there are."""
    code, out, err = await oddsbot("standin", "polymarket", "--switch", "tea")
    assert (code, out) == (2, "")
    assert one_line(err)
    assert "no_resolved" in err


@pytest.mark.errors
@pytest.mark.requirement("B10")
@pytest.mark.parametrize("port", ["taken", "70000"])
async def test_a_port_that_cannot_be_had_is_one_line(port, oddsbot):
    """A port that is taken, or is none, is said in a line."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = str(other.getsockname()[1]) if port == "taken" else port
        code, out, err = await oddsbot("standin", "telegram", "--port", number)
    assert (code, out) == (2, "")
    assert one_line(err)


@pytest.mark.basic
@pytest.mark.requirement("B5")
async def test_piped_the_demo_says_how_far_it_is(oddsbot):
    """Where stdout is no terminal it is headless by itself, and not silent."""
    code, out, err = await oddsbot("demo", "--seconds", "6", "--speed", "200")

    assert code == 0
    # On a busy machine Redis may be too late for a limit.
    part = "part=limiter "
    assert all(part in line for line in err.splitlines()), err
    first, *rest = out.splitlines()
    assert first == "playing 1,200 recorded seconds at speed 200: about 6 s"
    assert any("% played, " in line for line in rest)
    assert "check: exactly the " in out


@pytest.mark.errors
async def test_two_forms_of_the_demo_are_one_too_many(oddsbot):
    """Options that contradict each other are refused with what to give."""
    code, _, err = await oddsbot("demo", "--browser", "--terminal")
    assert code == 2
    assert "give one of" in one_line(err)


@pytest.mark.errors
@pytest.mark.requirement("B2", "X2")
@pytest.mark.parametrize(
    ("token", "said"),
    [
        ({}, "there is no token"),
        ({"TELEGRAM_BOT_TOKEN": "canary"}, "is no token"),
        ({"TELEGRAM_BOT_TOKEN": "1:canary"}, "does not know this token"),
    ],
    ids=["none", "malformed", "refused"],
)
async def test_run_without_a_token_or_with_a_wrong_one_is_one_line(
    token, said, oddsbot
):
    """No token, no form of one, one that Telegram refuses: code 2, a line, no token."""
    async with BotApi(SystemClock().now) as api:
        code, out, err = await oddsbot(
            "run", TELEGRAM_API_URL=api.url, ODDSWIRE_PROFILE="test", **token
        )
    assert code == 2, err
    assert said in err.splitlines()[-1]
    assert "canary" not in out + err


@pytest.mark.integration
@pytest.mark.requirement("B2", "C13")
async def test_run_against_the_stand_ins_starts_and_ends_in_order(oddsbot):
    """No account, no network: it says its page, and ends at SIGTERM with code 0."""
    command = await oddsbot.start("run", "--standin", ODDSWIRE_PROFILE="test")
    lines = [(await command.stdout.readline()).decode() for _ in range(2)]
    assert lines[0].startswith("page http://127.0.0.1:")
    assert "runs: deliver, updates, watch" in lines[1]
    command.send(signal.SIGTERM)
    code, out, err = await command.end()
    assert (code, out) == (0, "stopped\n"), err
    assert TOKEN not in out + err


@pytest.mark.integration
@pytest.mark.requirement("O1", "X6")
async def test_a_running_bot_shows_how_it_is(unused_tcp_port, oddsbot):
    """Probes are answered to everybody, metrics and the page to who has the token."""
    token = "a-token-of-this-test-0123"
    command = await oddsbot.start(
        *("run", "--standin"),
        ODDSWIRE_PROFILE="test",
        STATUS_BIND=f"127.0.0.1:{unused_tcp_port}",
        STATUS_TOKEN=token,
    )
    async with aiohttp.ClientSession(f"http://127.0.0.1:{unused_tcp_port}") as http:

        async def status(path, **headers):
            try:
                async with http.get(path, headers=headers) as answer:
                    return answer.status
            except aiohttp.ClientError:
                return None

        async def ready():
            return await status("/readyz") == 200

        # Looking is work too: on a busy machine often enough keeps it from starting.
        await eventually(ready, 60, pause=0.1)
        bearer = {"Authorization": f"Bearer {token}"}
        for path in ("/metrics", "/status", "/status.json"):
            assert await status(path) == 401
            assert await status(path, **bearer) == 200
        assert await status("/livez", Host="evil.example") == 421
    command.send(signal.SIGTERM)
    code, out, err = await command.end()
    assert code == 0, err
    assert token not in out + err


@pytest.mark.errors
@pytest.mark.requirement("X6")
async def test_a_status_for_others_without_a_token_is_refused(oddsbot):
    """The bot does not start where others could read its status."""
    code, _, err = await oddsbot(
        *("run", "--standin"),
        ODDSWIRE_PROFILE="test",
        STATUS_BIND="0.0.0.0:0",
    )
    assert code == 2, err
    assert "set a token" in err.splitlines()[-1]
