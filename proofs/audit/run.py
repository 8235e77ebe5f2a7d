"""``make audit``: readers, writers and faults in several processes, for stale reads.

Ours first, then cashews, aiocache and dogpile.cache under the same faults, each for the
same time. Writes build/audit.json and, after a whole run of ten minutes each,
results/audit.md. Exit status 1: ours served what it must not. The same audit of ours
alone, in short, is a test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import secrets
import signal
import sys
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from adapters import ADAPTERS, ON_CLUSTER
from judge import Verdict, judge
from process import KEYS

from oddswire import Client
from oddswire.embedded import EmbeddedCluster, EmbeddedServer
from oddswire.testing import FaultProxy, frozen
from support import eventually
from support.hooks import ask
from support.topple import HOWS, Toppled

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
WHOLE = 600.0
PROCESSES = 3
# Two seconds are promised; the rest is for a machine that is busy with the audit.
BOUND = 2.5
# Six are promised where a primary is deposed: docs/results/guarantees.md.
BOUND_DEPOSED = 6.5
FAULTS = (
    "half-open", "deaf", "cut", "late", "stop", "kill", "flush", "freeze", "restart",
    "promote",
)  # fmt: skip


class Audit:
    """One run for one library."""

    bound = BOUND

    def __init__(
        self, name: str, folder: Path, seed: int, faults: Sequence[str] = FAULTS
    ) -> None:
        self._name = name
        self._folder = folder
        self._rng = random.Random(seed)
        self._choice = faults
        self._started = 0
        self._workers: list[asyncio.subprocess.Process] = []
        self.faults: dict[str, int] = {}

    async def run(self, seconds: float) -> Verdict:
        """Let it run with a fault every other second, and judge."""
        async with AsyncExitStack() as stack:
            # One password: either may be the primary.
            secret = secrets.token_hex(8)
            args = ("--masterauth", secret, "--repl-diskless-sync-delay", "0")
            self._server, self._replica = [
                await stack.enter_async_context(
                    EmbeddedServer(password=secret, args=args)
                )
                for _ in range(2)
            ]
            await self._follow()
            self._proxies = [
                await stack.enter_async_context(FaultProxy(self._server.url))
                for _ in range(PROCESSES)
            ]
            await self._work(stack, seconds)
        return judge(self._lines(), self.bound)

    async def _work(self, stack: AsyncExitStack, seconds: float) -> None:
        """Start the workers, and have a fault every other second."""
        self._truth = await stack.enter_async_context(EmbeddedServer())
        self._workers = [await self._start(at) for at in range(PROCESSES)]
        # On a busy machine a process takes seconds to begin.
        await eventually(lambda: len({name for name, _ in self._lines()}) == PROCESSES)
        end = monotonic() + seconds
        try:
            while (left := end - monotonic()) > 0:
                self._show(1 - left / seconds)
                await asyncio.sleep(0.3 + self._rng.random())
                await self._fault()
        finally:
            for worker in self._workers:
                with suppress(ProcessLookupError):
                    worker.kill()
                await worker.wait()

    def _show(self, share: float) -> None:
        if sys.stderr.isatty():
            bar = ("#" * round(30 * share)).ljust(30, ".")
            faults = sum(self.faults.values())
            sys.stderr.write(f"\r{self._name:<9} [{bar}] {faults:>4} faults")

    async def _start(self, at: int) -> asyncio.subprocess.Process:
        self._started += 1
        return await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).parent / "process.py"),
            self._name,
            self._url(at),
            self._truth.url,
            str(self._folder / f"{self._started}.jsonl"),
            str(self._started),
            *self._sentinels(at),
            # What peers print of their broken connections is theirs.
            stderr=None if self._name == "oddswire" else asyncio.subprocess.DEVNULL,
        )

    def _url(self, at: int) -> str:
        return self._proxies[at].url

    def _sentinels(self, at: int) -> tuple[str, ...]:
        return ()

    async def _fault(self) -> None:
        at = self._rng.randrange(PROCESSES)
        proxy, worker = self._proxies[at], self._workers[at]
        fault = self._rng.choice(self._choice)
        self.faults[fault] = self.faults.get(fault, 0) + 1
        pause = 0.5 + self._rng.random() * 3.5
        if fault == "half-open":
            proxy.blackhole()
            await asyncio.sleep(pause)
            proxy.heal()
            proxy.reset()
        elif fault == "deaf":
            proxy.down.blackhole = True
            await asyncio.sleep(pause)
            proxy.heal()
            proxy.reset()
        elif fault == "cut":
            proxy.reset()
        elif fault == "late":
            proxy.down.latency = 0.05
            await asyncio.sleep(pause / 2)
            proxy.heal()
        elif fault == "stop":
            # One of a peer's may have ended by itself, at an error of its library.
            with suppress(ProcessLookupError):
                worker.send_signal(signal.SIGSTOP)
                await asyncio.sleep(pause)
                worker.send_signal(signal.SIGCONT)
        elif fault == "kill":
            with suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()
            self._workers[at] = await self._start(at)
        elif fault == "flush":
            await self._flush()
        elif fault == "freeze":
            with frozen(self._server):
                await asyncio.sleep(pause / 2)
        elif fault == "promote":
            await self._promote()
        else:
            self._server.kill()
            await self._server.wait_exit()
            await self._server.restart()

    async def _promote(self) -> None:
        """Lose the primary and what it acknowledged last: its replica takes over."""
        async with Client.from_url(self._replica.url) as client:
            await client.replicaof("NO", "ONE")
        await asyncio.sleep(0.5)
        self._server.kill()
        await self._server.wait_exit()
        self._server, self._replica = self._replica, self._server
        for proxy in self._proxies:
            proxy.redirect(self._server.host, self._server.port)
            proxy.reset()
        await self._replica.restart()
        await self._follow()

    async def _follow(self) -> None:
        async with Client.from_url(self._replica.url) as client:
            await client.replicaof(self._server.host, self._server.port)
            async with asyncio.timeout(10):
                while (await client.info("replication"))["master_link_status"] != "up":  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    async def _flush(self) -> None:
        async with Client.from_url(self._server.url) as client:
            await client.flushdb()

    def _lines(self) -> list[tuple[str, list[object]]]:
        found = []
        for file in sorted(self._folder.glob("*.jsonl")):
            for line in file.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # the last one of a killed process
                    found.append((file.stem, json.loads(line)))
        return found


class SentinelAudit(Audit):
    """The same by Sentinel, with a primary that is deposed each time.

    It is replaced by command, killed, frozen and goes on later, or cut off from its
    replicas and the sentinels and goes on for clients. Of the workers one, two or all
    are cut off from the sentinels meanwhile, so that nobody tells them.
    """

    bound = BOUND_DEPOSED

    async def run(self, seconds: float) -> Verdict:
        """Depose one primary after the other, and judge."""
        async with AsyncExitStack() as stack:
            self._group = await stack.enter_async_context(Toppled())
            self._links = [
                [
                    await stack.enter_async_context(FaultProxy(sentinel.url))
                    for sentinel in self._group.sentinels
                ]
                for _ in range(PROCESSES)
            ]
            await self._work(stack, seconds)
        return judge(self._lines(), self.bound)

    def _url(self, at: int) -> str:
        return self._group.url

    def _sentinels(self, at: int) -> tuple[str, ...]:
        hosts = ",".join(
            f"127.0.0.1:{urlsplit(link.url).port}" for link in self._links[at]
        )
        return hosts, self._group.password

    async def _fault(self) -> None:
        fault = self._rng.choice(self._choice)
        deaf = self._rng.sample(range(PROCESSES), self._rng.randrange(PROCESSES + 1))
        what = f"{fault}, {len(deaf)} deaf"
        self.faults[what] = self.faults.get(what, 0) + 1
        for at in deaf:
            for link in self._links[at]:
                link.blackhole()
        try:
            old = await self._group.depose(fault)
            # Longer than the bound: what is believed for longer is seen.
            await asyncio.sleep(self._rng.random() * 2 * self.bound)
            if fault == "freeze":
                old.kill(signal.SIGCONT)
                await asyncio.sleep(self._rng.random() * 2)
        finally:
            for at in deaf:
                for link in self._links[at]:
                    link.heal()
                    link.reset()
        await self._group.restore(old, fault)


CLUSTER_FAULTS = ("move", "move atomic", "kill", "freeze", "failover", "stop", "flush")


class ClusterAudit(Audit):
    """The same on a cluster of three primaries with a replica each.

    Slots with keys of the cache move, one by one with their keys or at once; a primary
    is killed, frozen until long after its replica took over, or replaced by command.
    """

    async def run(self, seconds: float) -> Verdict:
        """Let it run with a fault every other second, and judge."""
        async with (
            EmbeddedCluster(primaries=3, replicas=1) as self._cluster,
            AsyncExitStack() as stack,
        ):
            await self._work(stack, seconds)
        return judge(self._lines(), self.bound)

    def _url(self, at: int) -> str:
        return self._cluster.cluster_url

    async def _fault(self) -> None:
        fault = self._rng.choice(self._choice)
        worker = self._rng.choice(self._workers)
        pause = 0.5 + self._rng.random() * 3.5
        self.faults[fault] = self.faults.get(fault, 0) + 1
        if fault == "stop":
            with suppress(ProcessLookupError):
                worker.send_signal(signal.SIGSTOP)
                await asyncio.sleep(pause)
                worker.send_signal(signal.SIGCONT)
        elif fault == "flush":
            async with Client.from_url(self._cluster.cluster_url) as client:
                await client.bounded(10.0).flushdb()
        elif fault.startswith("move"):
            await self._move(atomic=fault == "move atomic")
        else:
            await self._depose(fault, pause)
        await self._settle()

    async def _move(self, *, atomic: bool) -> None:
        """Move a slot that has keys to another primary."""
        primaries = await self._primaries()
        source = self._rng.choice(primaries)
        target = self._rng.choice([each for each in primaries if each is not source])
        keys = await ask(source.url, "KEYS", "*cache*")
        slots = [await ask(source.url, "CLUSTER", "KEYSLOT", key) for key in keys]
        ranges = await ask(source.url, "CLUSTER", "SLOTS")
        # A slot that was moved atomically leaves its keys for a moment.
        own = [
            slot
            for slot in sorted(slots)
            if any(r[0] <= slot <= r[1] and r[2][1] == source.port for r in ranges)
        ]
        if not own:
            return
        slot = self._rng.choice(own)
        await self._cluster.move_slots(slot, slot, source, target, atomic=atomic)

    async def _depose(self, fault: str, pause: float) -> None:
        """Have a replica take over from one of the primaries."""
        victim = self._rng.choice(await self._primaries())
        replica = await self._replica_of(victim)

        async def took_over() -> bool:
            return bool((await ask(replica.url, "ROLE"))[0] == "master")

        if fault == "failover":
            await ask(replica.url, "CLUSTER", "FAILOVER")
            await eventually(took_over, 30)
        elif fault == "freeze":
            with frozen(victim):
                await eventually(took_over, 30)
                await asyncio.sleep(pause)
        else:
            victim.kill()
            await victim.wait_exit()
            await eventually(took_over, 30)
            await asyncio.sleep(pause / 2)
            await victim.restart()

    async def _primaries(self) -> list[EmbeddedServer]:
        roles = [(each, await ask(each.url, "ROLE")) for each in self._cluster.servers]
        return [server for server, role in roles if role[0] == "master"]

    async def _replica_of(self, primary: EmbeddedServer) -> EmbeddedServer:
        for server in self._cluster.servers:
            role = await ask(server.url, "ROLE")
            if role[0] == "slave" and role[2] == primary.port:
                return server
        raise AssertionError(f"{primary.port} has no replica")

    async def _settle(self) -> None:
        """Wait until every primary has its replica again."""

        async def settled() -> bool:
            primaries, synced = 0, 0
            for server in self._cluster.servers:
                try:
                    role = await ask(server.url, "ROLE")
                    state = await ask(server.url, "CLUSTER", "INFO")
                except Exception:  # noqa: BLE001 - it is on its way up
                    return False
                if "cluster_state:ok" not in state:
                    return False
                primaries += role[0] == "master"
                synced += role[0] == "slave" and role[3] == "connected"
            return primaries == 3 and synced == 3

        await eventually(settled, 60)


async def audit(
    name: str,
    seconds: float,
    seed: int = 1,
    faults: Sequence[str] = (),
    *,
    topology: str = "pair",
) -> tuple[Verdict, Audit]:
    """Audit one library: on a server with a replica, by Sentinel, on a cluster."""
    kind, known = _TOPOLOGIES[topology]
    with tempfile.TemporaryDirectory(prefix="audit-") as folder:
        run = kind(name, Path(folder), seed, faults or known)
        return await run.run(seconds), run


_TOPOLOGIES: dict[str, tuple[type[Audit], Sequence[str]]] = {
    "pair": (Audit, FAULTS),
    "sentinel": (SentinelAudit, HOWS),
    "cluster": (ClusterAudit, CLUSTER_FAULTS),
}

_PAGE = """# The audit of the cache

This page is written by `make audit`; no figure in it was entered by hand. {processes}
processes read and invalidate {keys} keys; some loaders take seconds. Every other second
something breaks: a link in both directions or in one, cut or late; a process killed or
stopped; the server flushed, frozen, killed and started, or replaced by a replica that
may be behind. What was read is then compared with what had been invalidated by then.

{table}

*Own*: reads that were older than an invalidation which the same process had seen
confirmed before. *Others'*: older than one that another process had seen confirmed
more than {bound:g} s before (2 s are promised, the rest is for a busy machine).
*Latest*: the longest time after which something older was read. *Raised*: reads that
ended with an error, which is no stale value. cashews with its client side cache and
RESP2, aiocache and dogpile.cache on Redis, as their documentation has it.
"""
_SENTINEL = "oddswire, Sentinel"
_SENTINEL_PAGE = """
## A primary that is deposed

`make audit TOPOLOGY=sentinel`, ours alone: three sentinels, a primary that needs one of
its two replicas to write (`min-replicas-max-lag 2`). It is replaced by command, killed,
frozen and goes on later, or cut off from replicas and sentinels while it goes on for
clients. Some of the processes, or all, hear no sentinel meanwhile (deaf), for up to
{deaf:g} s. *Others'* is here more than {bound:g} s before: 6 s are
[promised](guarantees.md#a-deposed-primary).

{table}

{faults}
"""
_CLUSTER = {"oddswire": "oddswire, cluster", "redis-py": "redis-py, cluster"}
_CLUSTER_HEADING = "\n## On a cluster\n"
_CLUSTER_PAGE = """
## On a cluster

`make audit TOPOLOGY=cluster`: three primaries with a replica each.
Slots with keys of the cache move, with their keys one by one or at once; a primary is
killed, frozen until its replica has taken over and longer, or replaced by command;
processes stop, everything is flushed. *Others'* is more than {bound:g} s before. The
peer is redis-py's client of a cluster with the cache that one writes around it: GET,
and SET of what was loaded; it does without memory of its own.

{table}

{faults}
"""
_COLUMNS = (
    "cache", "seconds", "reads", "invalidations", "faults", "own", "others'",
    "latest, s", "raised",
)  # fmt: skip


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the verdicts as a table."""
    rows = [
        "| " + " | ".join(_COLUMNS) + " |",
        "| --- |" + " ---: |" * (len(_COLUMNS) - 1),
    ]
    for name, each in results.items():
        rows.append(
            f"| {name} | {each['seconds']:g} | {each['reads']:,} | {each['writes']:,} "
            f"| {sum(each['faults'].values())} | {each['own']} | {each['others']} "
            f"| {each['worst']:.2f} | {sum(each['errors'].values()):,} |"
        )
    return "\n".join(rows)


def _cluster_section(whole: dict[str, dict[str, Any]]) -> str:
    """Return what the page says of the runs on a cluster; nothing without one."""
    found = {each: whole[each] for each in _CLUSTER.values() if each in whole}
    if not found:
        return ""
    faults = "; ".join(
        f"{name}: "
        + ", ".join(f"{fault} {n}" for fault, n in sorted(each["faults"].items()))
        for name, each in found.items()
    )
    return _CLUSTER_PAGE.format(bound=BOUND, table=table(found), faults=faults)


def _keep(file: Path, results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add results to those of earlier runs; a short one replaces no whole one."""
    kept = json.loads(file.read_text()) if file.exists() else {}
    for name, each in results.items():
        if each["seconds"] >= min(WHOLE, kept.get(name, {}).get("seconds", 0)):
            kept[name] = each
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(kept, indent=1))
    return kept


def main() -> int:
    """Audit everybody; 1 if ours served what it must not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=WHOLE)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(ADAPTERS | ON_CLUSTER))
    parser.add_argument("--topology", choices=list(_TOPOLOGIES), default="pair")
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    options = parser.parse_args()
    kept = ROOT / "build" / "audit.json"
    results: dict[str, dict[str, Any]] = {}
    topology = options.topology
    named = {
        "pair": {each: each for each in ADAPTERS},
        "sentinel": {"oddswire": _SENTINEL},
        "cluster": _CLUSTER,
    }[topology]
    for each in [options.only] if options.only else named:
        verdict, run = asyncio.run(
            audit(each, options.seconds, options.seed, topology=topology)
        )
        name = named[each]
        results[name] = {
            "seconds": options.seconds,
            "faults": run.faults,
            **verdict._asdict(),
        }
        _keep(kept, {name: results[name]})
    text = table(results)
    whole = _keep(kept, {})
    if all(whole.get(name, {}).get("seconds", 0) >= WHOLE for name in ADAPTERS):
        whole_text = table({name: whole[name] for name in ADAPTERS})
        page = _PAGE.format(
            processes=PROCESSES, keys=KEYS, bound=BOUND, table=whole_text
        )
        deposed = whole.get(_SENTINEL, {})
        if deposed.get("seconds", 0) >= WHOLE:
            page += _SENTINEL_PAGE.format(
                deaf=2 * BOUND_DEPOSED,
                bound=BOUND_DEPOSED,
                table=table({_SENTINEL: deposed}),
                faults="; ".join(
                    f"{fault}: {count}"
                    for fault, count in sorted(deposed["faults"].items())
                ),
            )
        page += _cluster_section(whole)
        (ROOT / "docs/results/audit.md").write_text(page)
    elif topology == "cluster":
        there = ROOT / "docs/results/audit.md"
        page = there.read_text(encoding="utf-8").partition(_CLUSTER_HEADING)[0]
        there.write_text(page + _cluster_section(whole), encoding="utf-8")
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    print(json.dumps(results, indent=1) if options.json else text)
    ours = results.get(named["oddswire"])
    if ours is None:
        return 0
    for line in ours["first"]:
        print(line, file=sys.stderr)
    return int(bool(ours["own"] or ours["others"]))


if __name__ == "__main__":
    sys.exit(main())
