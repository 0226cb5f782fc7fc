"""A worker node's protocol core on a real Kafka, without pool and Faust: the test decides how attempts end.

`Core` is one node. `Log` reads what is on the topics. Tests wait for events on either, never for a time.
"""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import TopicPartition

from agents.completion.claim_members import ClaimMembers
from agents.completion.finisher import Finisher
from agents.execution.job import AttemptEnd, Job, Jobs, Key
from agents.execution.slots import Slots
from agents.intake.cancellations import Cancellations
from agents.intake.delegation import Delegation
from agents.intake.intake import Intake
from agents.intake.micro_batching import RunTimes
from agents.membership.death_notices import own_death_notice
from agents.membership.failure_detector import FailureDetector
from agents.membership.fencing import Fence
from agents.membership.heartbeats import Heartbeats
from agents.membership.identity import NodeIdentity
from agents.membership.registry import Registry
from agents.membership.takeover import take_over
from agents.monitoring.protocol_metrics import ProtocolMetrics
from agents.recovery.checkpoints import Checkpoints
from agents.recovery.reaper import Reaper
from agents.recovery.trimmer import Trimmer
from headrace.contract.cluster import KindInfo, Wait
from headrace.contract.journal import Claim, decode_journal
from headrace.contract.records import Outgoing, Place, Record
from headrace.contract.states import Cause
from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP
from headrace.kafka.metadata import partitions_of
from headrace.kafka.reading import end_offsets, read_ranges
from headrace.kafka.sender import Sender
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.settings import Settings
from tests.rigs.topics import PROBE

PATIENCE_S = 60.0  # for an event that will come, on a busy machine

WORK = KindInfo("work", {"type": "object", "additionalProperties": {"type": "integer"}}, timeout_s=60.0, max_attempts=3)


def submission(name: str = "work", **fields: Any) -> bytes:
    return orjson.dumps({"name": name, "payload": {}, "directory": "d"} | fields)


def record(
    task_id: str | None = None, value: bytes | None = None, topic: str = "tasks.normal", partition: int = -1
) -> Outgoing:
    """A record of a task topic; by default a new task for any partition of `tasks.normal`."""
    return Outgoing(topic, (task_id or str(uuid.uuid4())).encode(), value or submission(), (), partition)


class Core:
    """One node. `jobs` has the jobs that were handed over; `end` ends the attempt of one."""

    def __init__(
        self,
        settings: Settings,
        name: str = "node-1",
        slots: int = 2,
        kinds: Iterable[KindInfo] = (WORK,),
        failpoint: Failpoint = no_failpoint,
        heartbeats: bool = True,
        fence: bool = False,
        tiny: Iterable[str] = (),
    ) -> None:
        """`tiny`: kinds that count as tiny from the start. Without `heartbeats` other nodes never hear of this one."""
        self.kafka = Kafka(settings, name)
        self.sender = Sender(self.kafka)
        self.node = NodeIdentity(name, settings.data)
        self.before = self.node.take_lock(5)
        self.slots = Slots(slots)
        self.slots.set_open(True)
        self.failure_detector = FailureDetector(settings.lease_s)
        self.registry = Registry(self.kafka, kinds, self.failure_detector)
        self.cancellations = Cancellations(self.kafka, self.node.control_path)
        self.heartbeats = Heartbeats(
            self.sender, self.node, slots=slots, kinds=kinds, running=lambda: (), waits=self._waits
        )
        self._sends_heartbeats = heartbeats
        self.loop = asyncio.new_event_loop()
        self._loop_thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._loop_thread.start()
        self.metrics = ProtocolMetrics()
        members, run_times = ClaimMembers(), RunTimes()
        for kind in list(tiny) * 10:
            run_times.add_run(kind, 0.0001)
        self.finisher = Finisher(
            self.sender, self.node, is_cancelled=self.cancellations.is_cancelled, failpoint=failpoint, members=members
        )
        self.jobs: list[Job] = []
        self.groups: list[list[Job]] = []  # as they were handed over, each for one slot
        self._unended: dict[Key, list[Key]] = {}  # job -> the unended jobs of its group
        self.on_job: Callable[[Job], None] = lambda _: None
        self._changed = threading.Condition()
        self.delegation = Delegation(
            self.kafka,
            self.sender,
            self.node,
            slots=self.slots,
            registry=self.registry,
            cancellations=self.cancellations,
            hand_over=self._hand_over,
            failpoint=failpoint,
        )
        self.intake = Intake(
            self.kafka,
            self.sender,
            self.node,
            slots=self.slots,
            registry=self.registry,
            cancellations=self.cancellations,
            hand_over=self._hand_over,
            hand_over_lost=self._hand_over_lost,
            failpoint=failpoint,
            delegation=self.delegation,
            run_times=run_times,
            members=members,
            metrics=self.metrics,
            aside_s=settings.aside_s,
        )
        self.trimmer = Trimmer(self.kafka, settings.keep_s, every_s=0.25, failpoint=failpoint, metrics=self.metrics)
        self.reaper = Reaper(
            self.kafka,
            self.sender,
            self.node,
            self.registry,
            failpoint=failpoint,
            trimmer=self.trimmer,
            checkpoints=Checkpoints(self.kafka, every_s=0.25, metrics=self.metrics),
            metrics=self.metrics,
        )
        self.fence = Fence(self.node, settings.lease_s, [self._boot_over])
        self.registry.on_declared_dead = self.fence.declared_dead
        self._fences_itself = fence

    def _waits(self) -> list[Wait]:
        return [*self.intake.foreign_heads.waits(), *self.delegation.waiting.waits()]

    def _boot_over(self, old: str) -> None:
        self.loop.call_soon_threadsafe(self.finisher.drop_delayed_retries)
        self.sender.send(own_death_notice(self.node, old).encode())

    def start(self) -> "Core":
        if self.before is not None:
            take_over(self.kafka, self.sender, self.node, self.before)
        self.registry.start()
        self.cancellations.start()
        self.delegation.start()
        assert self.registry.wait_caught_up(PATIENCE_S)
        if self._sends_heartbeats:
            self.heartbeats.start()
        if self._fences_itself:
            self.fence.start()
        self.intake.start()
        self.reaper.start()
        return self

    def _hand_over(self, jobs: Jobs) -> None:
        with self._changed:
            self.jobs += jobs
            self.groups.append(list(jobs))
            group = [job.key for job in jobs]
            self._unended |= dict.fromkeys(group, group)
            self._changed.notify_all()
        for job in jobs:
            self.loop.call_soon_threadsafe(self.finisher.started, job)
            self.on_job(job)

    def _hand_over_lost(self, jobs: Jobs, detail: str) -> None:
        for job in jobs:
            lost = AttemptEnd.now(Cause.NODE_LOSS, detail)
            asyncio.run_coroutine_threadsafe(self.finisher.finish(job, lost), self.loop)

    def wait_jobs(self, count: int, timeout_s: float = PATIENCE_S) -> list[Job]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.jobs) >= count, timeout_s), (
                f"{len(self.jobs)} of {count} jobs"
            )
            return list(self.jobs)

    def end(self, job: Job, **how: Any) -> None:
        """Ends an attempt: completed with b"ok", or as `how` says; waits until Kafka has what follows."""
        self.end_soon(job, **how).result(PATIENCE_S)

    def end_soon(self, job: Job, **how: Any) -> "Future[None]":
        """The same without waiting."""
        now = int(time.time() * 1000)
        end = AttemptEnd(now - 5, now, **(how or {"value": b"ok", "content_type": "text/plain", "suffix": ".txt"}))

        async def finish() -> None:
            try:
                await self.finisher.finish(job, end)
            finally:
                self._free_slot(job)

        return asyncio.run_coroutine_threadsafe(finish(), self.loop)

    def end_together(self, ended: Sequence[tuple[Job, AttemptEnd]]) -> Sequence[Job]:
        """Ends attempts in one go, as the worker agent does with a micro-batch; returns the jobs that are left."""
        finishing = asyncio.run_coroutine_threadsafe(self.finisher.finish_completed(ended), self.loop)
        left = [job for job, _ in finishing.result(PATIENCE_S)]
        for job in {job.key: job for job, _ in ended}.values():
            if job not in left:
                self._free_slot(job)
        return left

    def finish_again(self, job: Job, cause: Cause, detail: str) -> None:
        """Reports an end again, as the worker agent does after an error; waits until Kafka has what follows."""
        end = AttemptEnd.now(cause, detail, begun=True)
        asyncio.run_coroutine_threadsafe(self.finisher.finish(job, end), self.loop).result(PATIENCE_S)

    def _free_slot(self, job: Job) -> None:
        """Frees the slot when this was the last of its jobs."""
        group = self._unended.pop(job.key)
        group.remove(job.key)
        if not group:
            self.slots.release()

    def end_each(self) -> None:
        """From now on every attempt completes at once."""

        def end_soon(job: Job) -> None:
            self.end_soon(job)

        self.on_job = end_soon

    def count(self, metric: str) -> int:
        """What a counter of the node stands at, such as "repeated_tasks"."""
        return int(self.metrics.registry.get_sample_value(f"headrace_worker_{metric}_total") or 0)

    def close_finisher(self) -> None:
        asyncio.run_coroutine_threadsafe(self.finisher.close(), self.loop).result(PATIENCE_S)

    def close(self) -> None:
        self.intake.drain()
        self.reaper.close()
        self.delegation.close()
        if self._fences_itself:
            self.fence.close()
        self.heartbeats.close()
        self.cancellations.close()
        self.registry.close()
        self.close_finisher()
        self.sender.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._loop_thread.join(5)
        self.loop.close()
        self.node.release_lock()


@contextmanager
def cores(*made: Core) -> Iterator[None]:
    """Starts the nodes, and closes them at the end."""
    try:
        for core in made:
            core.start()
        yield
    finally:
        for core in made:
            core.close()


class Log:
    """Reads the topics of an installation; keeps what it has read, also after it is deleted from the topic."""

    def __init__(self, settings: Settings) -> None:
        self.kafka = Kafka(settings, "log")
        self._admin = self.kafka.admin()
        self._read: dict[str, list[Record]] = {}
        self._ends: dict[Place, int] = {}

    def read(self, topic: str) -> list[Record]:
        """All records, in order within each partition. Waits a little when nothing is new: tests call it in loops."""
        found = self._read.setdefault(topic, [])
        ends = end_offsets(self.kafka, self._admin, [(topic, p) for p in self._partitions(topic)])
        ranges = {place: (self._ends.get(place, 0), end) for place, end in ends.items()}
        if found and all(begin == end for begin, end in ranges.values()):
            time.sleep(0.02)
        read_ranges(self.kafka, ranges, lambda message: found.append(self.kafka.record(message)))
        self._ends |= ends
        return list(found)

    def _partitions(self, topic: str) -> list[int]:
        if known := [p for t, p in self._ends if t == topic]:
            return known
        return partitions_of(self._admin, [self.kafka.topic(topic)], PATIENCE_S)[self.kafka.topic(topic)]

    def wait(self, topic: str, count: int, timeout_s: float = PATIENCE_S) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        while len(found := self.read(topic)) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} records on {topic}"
        return found

    def live_claims(self) -> list[Claim]:
        """The claims without a tombstone."""
        live: dict[str, Claim] = {}
        for r in self.read("tasks.running"):
            if r.key == PROBE:
                continue
            entry = decode_journal(r)
            if isinstance(entry, Claim):
                live[str(entry.key)] = entry
            else:
                live.pop(str(entry.key), None)
        return list(live.values())

    def wait_no_claims(self, timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while claims := self.live_claims():
            assert time.monotonic() < deadline, f"claims without a tombstone: {[str(c.key) for c in claims]}"

    def committed(self, group: str = INTAKE_GROUP) -> dict[tuple[str, int], int]:
        consumer = self.kafka.consumer(group)
        try:
            asked = [
                TopicPartition(self.kafka.topic(t), p)
                for t in ("tasks.high", "tasks.normal")
                for p in self._partitions(t)
            ]
            return {(self.kafka.unprefixed(f.topic), f.partition): f.offset for f in consumer.committed(asked, 10)}
        finally:
            consumer.close()


def other(settings: Settings, folder: Path) -> Settings:
    """The same installation from another machine: a data directory of its own."""
    return replace(settings, data=folder)
