"""An outage of Kafka while every slot of a node reports progress at the full rate: the node's event loop goes on.

Liveness answers, time limits are kept, memory stays flat, and afterwards everything ends without a replay. The short
form has so small a queue in Kafka's client that seconds of reports would fill it many times; the long form, of
HEADRACE_FAULTS_MINUTES, has the product's own.
"""

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from infra.local.cluster import LocalCluster
from infra.local.roles import Role
from tests.rigs.http import get
from tests.rigs.reading import read_until

MINUTES = float(os.environ.get("HEADRACE_FAULTS_MINUTES", "0"))
KINDS = Path(__file__).parent / "processes" / "reporting_kinds.py"
SLOTS = 8
PATIENCE_S = 90.0
LIVENESS_S = 5.0  # a liveness probe that waits so long for its answer kills the node
MOST_GROWTH_MB = 20
MOST_THREADS = 8  # a client that is made anew at each failure has four
SMALL_QUEUE = "queue.buffering.max.messages=50\n"


def until(met: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def own_memory_mb(pid: int) -> float:
    """Of this process alone: what it shares with its children does not count."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return (kb["Private_Clean"] + kb["Private_Dirty"]) / 1024


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def liveness_s(worker: Role) -> float:
    began = time.monotonic()
    assert get(f"{worker.url}/healthz", timeout=PATIENCE_S).status_code == 200
    return time.monotonic() - began


@pytest.mark.timeout(300 + MINUTES * 60)
def test_a_node_whose_slots_all_report_outlives_an_outage(tmp_path: Path) -> None:
    options = tmp_path / "kafka.options"
    options.write_text("" if MINUTES else SMALL_QUEUE)
    flag, pid = tmp_path / "end", tmp_path / "pid"
    with LocalCluster(
        tmp_path,
        partitions=2,
        roles=("worker",),
        slots=SLOTS,
        tasks=str(KINDS),
        kafka_security=str(options),
        lease_s=60.0,  # a test machine that stands still for seconds must not fence the node
    ) as cluster:
        worker, kafka = cluster.services["worker-1"], Kafka(cluster.settings, "test")
        assert isinstance(worker, Role)
        sender = Sender(kafka)
        tasks = [("reports_until", {"flag": str(flag)})] * (SLOTS - 1) + [("reports_too_long", {"pid": str(pid)})]
        for name, payload in tasks:
            body = orjson.dumps({"name": name, "payload": payload, "directory": "d"})
            sender.send(Outgoing("tasks.normal", str(uuid.uuid4()).encode(), body)).result(PATIENCE_S)
        read_until(kafka, "lifecycle.started", SLOTS, PATIENCE_S)
        until(lambda: pid.exists() and pid.read_text(), "all run")
        read_until(kafka, "progress", SLOTS, PATIENCE_S)
        cluster.kill("kafka")
        memory, began, slowest_s = own_memory_mb(worker.pid), time.monotonic(), 0.0
        threads_before = threads(worker.pid)
        while time.monotonic() < began + MINUTES * 60 or Path(f"/proc/{pid.read_text()}").exists():
            slowest_s = max(slowest_s, liveness_s(worker))
            assert time.monotonic() < began + MINUTES * 60 + PATIENCE_S, "the time limit was not kept"
            time.sleep(0.5 if MINUTES else 0.1)
        outage_s, growth_mb = time.monotonic() - began, own_memory_mb(worker.pid) - memory
        more_threads = threads(worker.pid) - threads_before
        print(
            f"away for {outage_s:.0f} s: {memory:.0f} MB and {growth_mb:+.1f}, {more_threads:+d} threads; "
            f"slowest /healthz {slowest_s:.3f} s"
        )
        assert slowest_s < LIVENESS_S
        assert growth_mb < MOST_GROWTH_MB
        assert more_threads < MOST_THREADS
        cluster.services["kafka"].start()
        flag.touch()
        outcomes = [Outcome.decode(r) for r in read_until(kafka, "results", SLOTS, 2 * PATIENCE_S)]
        assert sorted((o.outcome, o.attempt) for o in outcomes) == [("completed", 1)] * (SLOTS - 1) + [("failed", 1)]
        sender.close()
