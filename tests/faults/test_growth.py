"""The queue grows while tasks are submitted, run and replayed: nothing is lost, runs twice, or is restarted.

docs/design/0038. Only `tasks.running`, `tasks.high` and `tasks.normal` get more partitions; the arbiter of an id stays.
"""

import itertools
import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import orjson
import pytest

from headrace.cli.main import main
from headrace.client import tls_context
from headrace.contract.records import Outgoing
from headrace.contract.states import Cause
from headrace.kafka.partitioner import partition_of
from headrace.kafka.sender import Sender
from infra.chaos.conservation import InjectedFault
from infra.chaos.evidence import Evidence, EvidenceReader
from infra.chaos.installation import Installation
from infra.chaos.listener import Listener
from infra.chaos.schedule import check_conservation, wait_quiet
from infra.chaos.workloads import PlannedTask, Submitted, heavy, submit_native, tiny
from infra.local.cluster import LocalCluster
from infra.local.roles import reached_at, role_addresses

FEW, MANY, MORE = 4, 8, 16
PATIENCE_S = 120.0

# Faults that a growth could cause. On a busy machine a role may also say that it joins its group or stands still.
_FAULT = re.compile("refuse|lost|gap|missing|conservation|failed|unknown", re.IGNORECASE)

_TINY = {"name": "prime", "payload": {"upper_bound": 60}, "directory": "growth"}
_FAILS_ONCE = {"name": "fragile", "payload": {"how": "raise", "attempts": 1}, "directory": "growth"}


@pytest.fixture(scope="module")
def cluster(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    prefix = f"grow{uuid.uuid4().hex[:6]}."
    with LocalCluster(
        tmp_path_factory.mktemp("growth"),
        bootstrap=broker,
        prefix=prefix,
        partitions=FEW,
        workers=3,
        gateways=2,
        lease_s=8.0,
    ) as product:
        yield product


@pytest.fixture
def installation(cluster: LocalCluster) -> Iterator[Installation]:
    at = Installation(cluster.settings, cluster.pids)
    yield at
    at.close()


@pytest.fixture
def grow(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setenv("HEADRACE_KAFKA", cluster.settings.kafka)
    monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", cluster.settings.topic_prefix)
    return lambda partitions: main(["topics", "grow", "--partitions", str(partitions)])


class Submitters:
    """Submit all the time, over HTTP at each gateway in turn and straight to Kafka with a client from before the
    growth. Whatever one gateway has accepted, another one must not deny."""

    def __init__(self, at: Installation, sender: Sender) -> None:
        self._at, self._sender = at, sender
        self.submitted = Submitted()
        self.denied: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=t) for t in (self._over_http, self._over_kafka)]

    def __enter__(self) -> "Submitters":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def _over_http(self) -> None:
        turns = itertools.cycle(itertools.permutations(self._at.urls))
        with httpx.Client(timeout=30, verify=tls_context()) as client:
            while not self._over.wait(0.02):
                there, elsewhere = next(turns)
                answer = client.post(f"{there}/tasks", json=random.choice([_TINY, _FAILS_ONCE]))
                assert answer.status_code == 202, answer.text
                task_id = answer.json()["id"]
                self.submitted.ids.add(task_id)
                for url in (there, elsewhere):
                    if client.get(f"{url}/tasks/{task_id}").status_code == 404:
                        self.denied.append(task_id)

    def _over_kafka(self) -> None:
        while not self._over.wait(0.02):
            submit_native(self._sender, tiny(2), self.submitted)


@contextmanager
def watching_readiness(at: Installation) -> Iterator[list[str]]:
    """Collects the faults that any role names while it is not ready."""
    said, over = list[str](), threading.Event()

    def watch() -> None:
        with httpx.Client(timeout=30, verify=tls_context()) as client:
            while not over.wait(0.2):
                for name, (_, listens) in role_addresses(at.settings).items():
                    host, port = reached_at(listens)
                    answer = client.get(f"http://{host}:{port}/readyz")
                    reasons = answer.json()["reasons"] if answer.status_code == 503 else [answer.text]
                    if answer.status_code != 200:
                        said.extend(f"{name}: {r}" for r in reasons if _FAULT.search(r))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield said
    finally:
        over.set()
        thread.join(PATIENCE_S)


def starts(evidence: Evidence, ids: set[str]) -> Counter[tuple[str, int]]:
    """From how many records each attempt of each task has started."""
    started = {(i, e.attempt, e.source) for i in ids for e in evidence.histories[i].started}
    return Counter((i, attempt) for i, attempt, _ in started)


def sources(evidence: Evidence, topic: str) -> set[int]:
    """The partitions of a task topic from which attempts have started."""
    named = (e.source.split("/") for h in evidence.histories.values() for e in h.started)
    return {int(partition) for t, partition, _ in named if t == topic}


def wait_until(what: str, met: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not met():
        assert time.monotonic() < began + PATIENCE_S, what
        time.sleep(0.1)
    return time.monotonic() - began


def resubmit(sender: Sender, ids: set[str]) -> None:
    """The same ids again, as a client does that has got no answer; where they belong now."""
    sender.send_all((Outgoing("tasks.normal", i.encode(), orjson.dumps(_TINY)) for i in ids), PATIENCE_S)


@pytest.mark.timeout(300)
def test_tasks_go_on_while_the_queue_grows(installation: Installation, grow: Callable[..., int]) -> None:
    stale, reader = Sender(installation.kafka), EvidenceReader(installation.kafka)
    before = Submitted()
    listener = Listener(*installation.urls).start()
    submit_native(stale, heavy(8, random.Random(1), 3.0, 6.0), before)
    submit_native(stale, tiny(60), before)
    submit_native(stale, [PlannedTask(_FAILS_ONCE)] * 20, before)
    with Submitters(installation, stale) as during, watching_readiness(installation) as complaints:
        wait_until("something has ended", lambda: any(h.terminal for h in reader.read().histories.values()))
        assert grow(MANY) == 0
        grown = time.monotonic()
        new = set(range(FEW, MANY))
        for topic in ("tasks.normal", "tasks.high"):
            wait_until(f"{topic} runs in all new partitions", lambda t=topic: new <= sources(reader.read(), t))
            print(f"work in all new partitions of {topic} after {time.monotonic() - grown:.1f} s")
        resubmit(stale, before.ids)
    ids = before.ids | during.submitted.ids
    evidence = wait_quiet(reader, ids)
    verdict = check_conservation(installation, Submitted(ids), evidence, [])
    assert verdict.good, str(verdict)
    moved = {i for i in before.ids if partition_of(i.encode(), MANY) >= FEW}
    assert all(len(evidence.histories[i].submitted_to) == (2 if i in moved else 1) for i in before.ids)
    assert set(starts(evidence, ids).values()) == {1}
    assert (during.denied, complaints) == ([], [])
    assert listener.wait_for(ids, 30)
    listener.close()
    assert {listener.terminal_events[i] for i in ids} == {1}


@pytest.mark.timeout(300)
def test_a_node_that_dies_while_the_queue_grows_loses_nothing(
    installation: Installation, cluster: LocalCluster, grow: Callable[..., int]
) -> None:
    """What it had claimed from an old partition is sent again into the one where its id belongs now."""
    sender, reader, submitted = Sender(installation.kafka), EvidenceReader(installation.kafka), Submitted()
    submit_native(sender, heavy(6, random.Random(2), 6.0, 8.0), submitted)
    wait_until("a node works", lambda: bool(reader.read().claims))
    claim = next(iter(reader.evidence.claims.values()))
    cluster.kill(claim.node.replace("node-", "worker-"))
    killed_ms = int(time.time() * 1000)
    assert grow(MORE) == 0  # its lease still lasts: what it ran is sent again into a queue that has grown
    killed = InjectedFault("kill_node", "", killed_ms, int(time.time() * 1000))
    submit_native(sender, tiny(40), submitted)
    submit_native(sender, [PlannedTask(_FAILS_ONCE)] * 10, submitted)
    resubmit(sender, submitted.ids)
    assert sender.close(30) == 0
    evidence = wait_quiet(reader, submitted.ids)
    verdict = check_conservation(installation, submitted, evidence, [killed])
    verdict.unknown.clear()  # the other test's tasks
    assert verdict.good, str(verdict)
    lost = {i for i in submitted.ids for f in evidence.histories[i].failures.values() if f.cause is Cause.NODE_LOSS}
    assert claim.tasks[0].id in lost
    assert {n for (i, attempt), n in starts(evidence, submitted.ids).items() if i not in lost} == {1}
