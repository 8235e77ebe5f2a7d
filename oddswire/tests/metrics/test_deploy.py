from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from oddswire.metrics import FAMILIES
from support import eventually

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
SUFFIXES = ("_bucket", "_sum", "_count")
# Names of packages and of files that look like names of metrics.
OTHER_WORDS = {"oddswire_client", "oddswire_build"}


def known():
    """Return every name that a scrape can have."""
    names = {family.name for family in FAMILIES}
    for family in FAMILIES:
        if family.kind == "histogram":
            names |= {family.name + suffix for suffix in SUFFIXES}
    return names


def expressions():
    """Return each expression of the rules and of the dashboard."""
    yield from (rule["expr"] for rule in json_rules())
    board = json.loads((DEPLOY / "grafana" / "oddswire.json").read_text())
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel["targets"])


@pytest.mark.basic
@pytest.mark.requirement("O1")
def test_the_files_are_those_that_the_script_writes():
    """Rules and dashboard are what the script makes of its tables."""
    run = subprocess.run(
        [sys.executable, DEPLOY / "render.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.basic
@pytest.mark.requirement("O1")
def test_every_metric_that_is_named_anywhere_exists():
    """A name in a rule, a panel, an example or a page is one that a scrape has."""
    used = {
        path: set(re.findall(r"\boddswire_\w*[a-z]", path.read_text()))
        for folder, form in (
            (DEPLOY, "*.py"),
            (DEPLOY, "*.yml"),
            (DEPLOY, "*.json"),
            (ROOT / "docs", "*.md"),
            (ROOT / "examples", "*.py"),
        )
        for path in folder.rglob(form)
        if path.name != "features.md"
    }
    unknown = {
        (path.name, name)
        for path, names in used.items()
        for name in names - known() - OTHER_WORDS
    }
    assert unknown == set()
    assert any(names for names in used.values())


@pytest.mark.basic
@pytest.mark.requirement("O1")
def test_every_label_that_is_named_exists():
    """What an expression selects or sums by is a label of its metrics."""
    labels = {label for family in FAMILIES for label in family.labels}
    for expression in expressions():
        named = re.findall(r"(?:by|on) \(([\w, ]*)\)", expression)
        named += [
            name
            for braces in re.findall(r"\{(.*?)\}", expression)
            for name in [", ".join(re.findall(r"(\w+)=", braces))]
        ]
        for names in named:
            assert set(names.split(", ")) <= labels | {"le", "instance", "job"}


@asynccontextmanager
async def running(*command, **options):
    """Run a program; end it afterwards."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.communicate()


@pytest.mark.integration
@pytest.mark.requirement("O1")
@pytest.mark.system("prometheus", package="prometheus")
@pytest.mark.timeout(180)
async def test_prometheus_scrapes_a_service_and_loads_the_rules(
    tmp_path, unused_tcp_port
):
    """Prometheus scrapes the example, evaluates each rule, answers each panel."""
    async with running(sys.executable, ROOT / "examples" / "status_page.py") as service:
        address = (await service.stdout.readline()).decode().split("/")[2]
        config = tmp_path / "prometheus.yml"
        await asyncio.to_thread(write_config, config, address)
        for check in (["config", config], ["rules", tmp_path / "rules.yml"]):
            await promtool("check", *check)
        async with (
            running(
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{unused_tcp_port}",
            ),
            aiohttp.ClientSession(f"http://127.0.0.1:{unused_tcp_port}") as http,
        ):

            async def ask(path, **parameters):
                try:
                    async with http.get(f"/api/v1/{path}", params=parameters) as answer:
                        return (await answer.json())["data"]
                except aiohttp.ClientError:
                    return None

            async def target():
                targets = (await ask("targets") or {}).get("activeTargets")
                return targets and targets[0]["health"] == "up"

            await eventually(target, 60)

            async def rules():
                groups = (await ask("rules"))["groups"]
                found = [rule for group in groups for rule in group["rules"]]
                health = {rule["name"]: rule["health"] for rule in found}
                return health if set(health.values()) == {"ok"} else None

            loaded = await eventually(rules, 60)
            assert len(loaded) == len(json_rules())

            async def names():
                found = set(await ask("label/__name__/values"))
                return found if "oddswire_queue_depth" in found else None

            scraped = await eventually(names, 60)
            assert {n for n in scraped if n.startswith("oddswire_")} <= known()
            # Each family that a healthy service fills is there.
            assert "oddswire_cache_load_duration_seconds_bucket" in scraped
            assert "oddswire_pubsub_lag_seconds_bucket" in scraped
            # Each expression is answered, and most of them with numbers.
            answered = 0
            for expression in expressions():
                query = expression.replace("$instance", ".*")
                answer = await ask("query", query=query)
                assert answer is not None, expression
                answered += bool(answer["result"])
            assert answered >= 8
        service.send_signal(signal.SIGTERM)
        assert await service.wait() == 0


def json_rules():
    """Return each rule of the file."""
    rules = json.loads((DEPLOY / "prometheus" / "rules.yml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def write_config(path, address):
    """Write the configuration of `deploy/`, with this target and shorter intervals."""
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    assert '"127.0.0.1:9090"' in text
    text = text.replace("127.0.0.1:9090", address).replace("15s", "1s")
    path.write_text(text)
    rules = (DEPLOY / "prometheus" / "rules.yml").read_text()
    (path.parent / "rules.yml").write_text(rules)


async def promtool(*arguments):
    """Run promtool, which has to find nothing wrong."""
    process = await asyncio.create_subprocess_exec(
        "promtool", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@pytest.mark.integration
@pytest.mark.requirement("O1")
@pytest.mark.system("promtool", package="prometheus")
async def test_the_rules_fire_when_they_should_and_not_before():
    """Series that are played to the rules raise each alert at its time alone."""
    await promtool("test", "rules", DEPLOY / "prometheus" / "rules_test.yml")
    await promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")
