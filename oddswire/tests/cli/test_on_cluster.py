"""`oddswire doctor` and `oddswire stats` on a cluster."""

from __future__ import annotations

import json

import pytest

from oddswire.embedded import EmbeddedCluster


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
