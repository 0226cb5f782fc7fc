"""The stream of all tasks over random logs: a client moves between two gateways that read in different orders."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.view.event_stream import EventStream
from gateway.view.event_topics import EVENT_TOPICS
from gateway.view.position_vector import PositionVector, decode, encode, has_passed
from gateway.view.projection import TaskView, fold_event, fold_submission, id_bytes
from gateway.view.store import StatusStore, StoredProgress, TaskFilter
from headrace.contract.ids import new_id
from headrace.contract.lifecycle import Event
from headrace.contract.records import Source
from headrace.contract.states import Reason
from headrace.contract.task import Task

PARTITIONS = 2
Log = dict[tuple[str, int], list[tuple[str, int]]]  # (topic, partition) -> [(id, attempt)]


def random_log(rng: random.Random, tasks: int) -> Log:
    """The topics' records of some tasks, in a random order in each partition."""
    log: Log = {(t, p): [] for t in EVENT_TOPICS for p in range(PARTITIONS)}
    for _ in range(tasks):
        task_id, partition = new_id(), rng.randrange(PARTITIONS)
        log["lifecycle.received", partition].append((task_id, 0))
        started = rng.random() < 0.8
        if started:
            log["lifecycle.started", partition] += [(task_id, a) for a in range(1, rng.choice((2, 2, 3)))]
            log["progress", partition] += [(task_id, 1)] * rng.choice((0, 0, 1, 3))
        end = "lifecycle.completed" if started and rng.random() < 0.7 else "tasks.dead"
        log[end, partition] += [(task_id, 1)] * rng.choice((1, 1, 2))
    return log


class Reader:
    """A gateway's view of a log, which it reads record by record from randomly chosen partitions."""

    def __init__(self, log: Log, store: StatusStore, rng: random.Random) -> None:
        self.store, self._rng = store, rng
        self.positions: dict[tuple[str, int], int] = {}
        self._started = {i for (topic, _), records in log.items() if topic == "lifecycle.started" for i, _ in records}
        self.left = {place: list(enumerate(records)) for place, records in log.items() if records}
        ids = {i for records in log.values() for i, _ in records}
        submitted = [
            fold_submission(
                None,
                Task(i, b"{}", attempt=1, source=Source("tasks.normal", 0, 0), submitted_ms=1000),
                "prime",
                "demo",
                "",
            ).task
            for i in ids
        ]
        store.apply(submitted, [], [], {})

    def read(self, count: int) -> None:
        for _ in range(count):
            if not self.left:
                return
            topic, partition = self._rng.choice(sorted(self.left))
            offset, (task_id, attempt) = self.left[topic, partition].pop(0)
            if not self.left[topic, partition]:
                del self.left[topic, partition]
            self.positions[topic, partition] = offset + 1
            self._fold(topic, partition, offset, task_id, attempt)

    def _fold(self, topic: str, partition: int, offset: int, task_id: str, attempt: int) -> None:
        key = id_bytes(task_id)
        event = [(EVENT_TOPICS.index(topic), partition, offset, key)]
        if topic == "progress":
            self.store.apply([], event, [StoredProgress(key, offset, partition, attempt, 0.5, "", 2000)], {})
            return
        task: TaskView | None = self.store.get_task(key)
        reason = Reason.FAILED if topic == "tasks.dead" else None
        timed = 5 if topic == "lifecycle.completed" or (reason and task_id in self._started) else None
        event_read = Event(
            topic,
            task_id,
            2000,
            name="prime",
            directory="demo",
            attempt=attempt,
            reason=reason,
            queued_ms=timed,
            duration_ms=timed,
            submitted_ms=1000,
            partition=partition,
            offset=offset,
        )
        folded = fold_event(task, event_read, "")
        self.store.apply([folded.task], event if folded.is_event else [], [], {})


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[StatusStore, StatusStore]]:
    pair = StatusStore(tmp_path / "a.sqlite"), StatusStore(tmp_path / "b.sqlite")
    yield pair
    for store in pair:
        store.close()


@pytest.mark.parametrize("seed", range(40))
def test_a_client_that_moves_between_gateways_gets_every_event_once(
    stores: tuple[StatusStore, StatusStore], seed: int
) -> None:
    rng = random.Random(seed)
    log = random_log(rng, 12)
    readers = [Reader(log, store, random.Random(seed + n)) for n, store in enumerate(stores)]
    place: PositionVector = {(t, p): 0 for t in range(len(EVENT_TOPICS)) for p in range(PARTITIONS)}
    received: list[tuple[str, str]] = []
    while True:
        for reader in readers:
            reader.read(rng.randrange(1, 12))
        done = not any(r.left for r in readers)
        reader = rng.choice(readers)
        while not has_passed(place, reader.positions):
            reader.read(1)
        stream = EventStream.resume(reader.store, decode(encode(place)), 0, TaskFilter())
        for _ in range(100 if done else rng.randrange(1, 4)):
            pairs = stream.next_events(rng.randrange(1, 6))
            if pairs is None:
                break
            received += [(t.data["id"], t.id if t.event == "progress" else t.event) for t, _ in pairs]
        place = dict(stream.vector)
        if done and stream.next_events() is None:
            break
    assert len(received) == len(set(received))
    due = expected(log)
    assert {h for h in received if not h[1].startswith("p")} == {t for t in due if not t[1].startswith("p")}
    assert set(received) <= due
    for task_id in {i for i, _ in received}:
        order = [e for i, e in received if i == task_id]
        rank = [{"received": 0, "started": 1, "completed": 3, "failed": 3}.get(e, 2) for e in order]
        assert rank == sorted(rank)


def expected(log: Log) -> set[tuple[str, str]]:
    """All events that a client may get. Progress that is read after the end of its task is not sent."""
    names = {
        "lifecycle.received": "received",
        "lifecycle.started": "started",
        "lifecycle.completed": "completed",
        "tasks.dead": "failed",
    }
    return {
        (i, names.get(topic) or f"p{offset}")
        for (topic, _), records in log.items()
        for offset, (i, _) in enumerate(records)
    }
