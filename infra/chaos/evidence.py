"""Everything that the log and the disk hold about the tasks of one run, for the conservation check.

Plain consumers read every topic from its beginning; each further reading goes on where the last one stopped. Retryable
or KafkaException when Kafka does not answer. Undecodable records are only counted, so that a forged record cannot stop
the check.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Message

from headrace.contract.journal import Claim, decode_journal
from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import Event
from headrace.contract.records import Place, Record
from headrace.contract.task import Task
from headrace.errors import Undecodable
from headrace.kafka.client import Kafka
from headrace.kafka.metadata import partitions_of
from headrace.kafka.reading import ANSWER_S, end_offsets, first_offsets, place_of, read_ranges

TOPICS = (
    "tasks.normal",
    "tasks.high",
    "tasks.running",
    "tasks.dead",
    "lifecycle.received",
    "lifecycle.started",
    "lifecycle.completed",
)
_READ_TIMEOUT_S = 600.0  # a long run leaves a long log


@dataclass(slots=True)
class TaskHistory:
    """The records of one task in the log."""

    submitted: int = 0  # records of attempt 1 on the task topics
    received: list[Event] = field(default_factory=list)
    started: list[Event] = field(default_factory=list)
    completed: list[Event] = field(default_factory=list)
    dead: list[Event] = field(default_factory=list)
    failures: dict[int, Failure] = field(default_factory=dict)  # attempt -> its failure, from replays and dead letters
    submitted_to: set[Place] = field(default_factory=set)  # the partitions with a record of attempt 1

    @property
    def terminal(self) -> list[Event]:
        return self.completed + self.dead


@dataclass(slots=True)
class Evidence:
    """Every task's history by id, the open claims, and the number of undecodable records."""

    histories: dict[str, TaskHistory] = field(default_factory=lambda: defaultdict(TaskHistory))
    claims: dict[str, Claim] = field(default_factory=dict)  # journal key -> claim that has no tombstone
    undecodable: int = 0


class EvidenceReader:
    """Used by one thread at a time. `evidence` is everything read so far."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._positions: dict[Place, int] = {}
        self.evidence = Evidence()

    def read(self) -> Evidence:
        """Reads on to the present end of every topic; Retryable or KafkaException when Kafka does not answer."""
        admin = self._kafka.admin()  # a new client each time: brokers come and go
        found = partitions_of(admin, map(self._kafka.topic, TOPICS), ANSWER_S)
        places = [(name, p) for name in TOPICS for p in found[self._kafka.topic(name)]]
        begins, ends = first_offsets(self._kafka, admin, places), end_offsets(self._kafka, admin, places)
        for place in places:  # skip records that were trimmed meanwhile
            self._positions[place] = max(begins[place], self._positions.get(place, 0))
        read_ranges(self._kafka, {p: (self._positions[p], ends[p]) for p in places}, self._add_message, _READ_TIMEOUT_S)
        self._positions |= {p: max(end, self._positions[p]) for p, end in ends.items()}
        return self.evidence

    def _add_message(self, message: Message) -> None:
        place, offset = place_of(self._kafka, message)
        if offset < self._positions[place]:
            return  # added by an earlier reading that was interrupted
        self._positions[place] = offset + 1
        try:
            _add_record(self.evidence, self._kafka.record(message))
        except Undecodable:
            self.evidence.undecodable += 1


def file_sha256(root: Path, event: Event) -> str | None:
    """The SHA-256 (hex) of a completed event's file below the results root; None if it cannot be read."""
    try:
        with (root / event.file).open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError:
        return None


def _add_record(evidence: Evidence, record: Record) -> None:
    if record.topic in ("tasks.normal", "tasks.high"):
        task = Task.from_record(record)
        history = evidence.histories[task.id]
        if task.attempt == 1:
            history.submitted += 1
            history.submitted_to.add((record.topic, record.partition))
        history.failures.update({f.attempt: f for f in task.ledger})
    elif record.topic == "tasks.running":
        entry = decode_journal(record)
        if isinstance(entry, Claim):
            evidence.claims[str(entry.key)] = entry
        else:
            evidence.claims.pop(str(entry.key), None)
    else:
        event = Event.decode(record)
        history = evidence.histories[event.id]
        getattr(history, record.topic.rsplit(".", 1)[1]).append(event)
        history.failures.update({f.attempt: f for f in event.ledger})
