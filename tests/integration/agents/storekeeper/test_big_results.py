"""Big results through every role: small ones overtake them, and no role's memory grows with their size."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.memory import KINDS
from headrace.client import Client
from infra.local.cluster import LocalCluster
from infra.local.memory import MemoryPeak

SMALLER_MIB, BIGGER_MIB = 16, 160
ROOM_MIB = 48  # a third of what the bigger one has more: nobody may keep it


@pytest.fixture(scope="module")
def cluster(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One partition: small results are behind the chunks of a big one."""
    with LocalCluster(
        tmp_path_factory.mktemp("big"), bootstrap=broker, prefix="big.", partitions=1, tasks=KINDS, task_user="same"
    ) as made:
        yield made


def passes(cluster: LocalCluster, mib: int) -> tuple[dict[str, float], list[str]]:
    """Runs a task with a result of that size: the most that each role took, and how far the task was each time
    that one of three small tasks, begun after it, had completed."""
    meanwhile: list[str] = []
    with Client(cluster.gateway_url) as client, MemoryPeak(cluster.pids) as memory:
        big = client.submit("big_file", {"mib": mib}, "demo")["id"]
        for event in client.events(big):
            if event.event == "started":
                for number in range(3):
                    beside = client.submit("small", {"number": number}, "demo")["id"]
                    assert [e.event for e in client.events(beside)][-1] == "completed"
                    meanwhile.append(client.request("GET", f"/tasks/{big}")["status"])
        served, size = hashlib.sha256(), 0
        for piece in client.result(big):
            served.update(piece)
            size += len(piece)
        task = client.request("GET", f"/tasks/{big}")
    assert task["status"] == "completed"
    assert (size, served.hexdigest()) == (mib * 1024 * 1024, task["result"]["sha256"])
    return memory.peak, meanwhile


def test_a_big_result_is_overtaken_by_small_ones_and_takes_no_role_more_memory(cluster: LocalCluster) -> None:
    smaller, _ = passes(cluster, SMALLER_MIB)
    bigger, meanwhile = passes(cluster, BIGGER_MIB)
    assert "running" in meanwhile, "no small one has overtaken it"
    assert {"gateway", "storekeeper", "worker-1", "worker-1 children"} <= bigger.keys()
    more = {role: round(mib - smaller.get(role, 0.0)) for role, mib in bigger.items()}
    print(more)
    assert all(mib < ROOM_MIB for mib in more.values()), more
    scratch = cluster.settings.data / "scratch"
    assert not [p for p in scratch.rglob("*") if p.is_file()], "something of it is left behind"
    assert not list(Path(cluster.settings.results).rglob("*.part*"))
