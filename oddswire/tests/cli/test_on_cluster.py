"""`oddswire doctor` and `oddswire stats` on a cluster."""

from __future__ import annotations

import json

import pytest

from oddswire.embedded import EmbeddedCluster
from support.hooks import ask


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_each_primary_is_a_server_of_its_own(beside):
    """Of each primary the same is asked as of one server."""
    async with EmbeddedCluster(primaries=3) as cluster:
        addresses = {f"{each.host}:{each.port}" for each in cluster.primaries}
        for word in ("doctor", "stats"):
            done = await beside(word, "--json", url=cluster.cluster_url)
            found = json.loads(done.stdout)["servers"]
            assert {each["address"] for each in found} == addresses
            assert {each["name"] for each in found} == {"main"}
        checks = [json.dumps(each) for each in found]
        assert not any(cluster.password in each for each in checks)
        done = await beside("doctor", "--json", url=cluster.cluster_url)
        for each in json.loads(done.stdout)["servers"]:
            status = {check["name"]: check["status"] for check in each["checks"]}
            assert status["reachable"] == "pass"
            assert each["skipped"] == 0


@pytest.mark.errors
@pytest.mark.requirement("C16")
async def test_a_cluster_that_is_away_is_one_server(beside):
    """No node answers: doctor says so of the whole, and ends."""
    async with EmbeddedCluster(primaries=3) as cluster:
        url = cluster.cluster_url
    done = await beside("doctor", "--json", url=url, REDIS_COMMAND_TIMEOUT="1000")
    [found] = json.loads(done.stdout)["servers"]
    status = {check["name"]: check["status"] for check in found["checks"]}
    assert (found["status"], status["reachable"]) == ("fail", "fail")


@pytest.mark.integration
@pytest.mark.requirement("C16", "X2")
async def test_printed_lines_are_those_of_a_cluster(beside):
    """By a URL of a cluster the line has what a cluster needs; its nodes take it."""
    async with EmbeddedCluster(primaries=2) as cluster:
        done = await beside("acl", "pubsub", "--user", "bot", url=cluster.cluster_url)
        (line,) = done.stdout.splitlines()
        granted = line.split(" ")
        assert {"+ssubscribe", "+asking", "+cluster|slots"} <= set(granted)
        assert not {"+subscribe", "+select"} & set(granted)
        assert "each node" in done.stderr
        for server in cluster.primaries:
            assert await ask(server.url, *granted) == "OK"
