"""All that the log and the disk say about the tasks of one run: what the conservation check judges.

Read with plain consumers from the beginning of every topic, and on from there each time: the log is read once, however
often it is looked at. Fails only as Kafka does; records that do not decode are counted, since a forged or garbage
record must not blind the check.
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
from headrace.kafka.reading import ANSWER_S, offsets, place_of, read_ranges

READ = (
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
class Story:
    """One task, as the log tells it."""

    submitted: int = 0  # records of attempt 1 on the task topics
    received: list[Event] = field(default_factory=list)
    started: list[Event] = field(default_factory=list)
    completed: list[Event] = field(default_factory=list)
    dead: list[Event] = field(default_factory=list)
    failures: dict[int, Failure] = field(default_factory=dict)  # attempt -> why it ended, from replays and dead letters

    @property
    def terminal(self) -> list[Event]:
        return self.completed + self.dead


@dataclass(slots=True)
class Evidence:
    """Every task's story, what is still claimed, and what could not be read."""

    stories: dict[str, Story] = field(default_factory=lambda: defaultdict(Story))
    claims: dict[str, Claim] = field(default_factory=dict)  # journal key -> claim without a tombstone
    undecodable: int = 0


class EvidenceReader:
    """Used by one thread at a time. `evidence` is what has been read so far."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._positions: dict[Place, int] = {}
        self.evidence = Evidence()

    def read(self) -> Evidence:
        """Reads on to the present end of every topic; Retryable or KafkaException when Kafka does not answer."""
        admin = self._kafka.admin()  # a new one each time: brokers have come and gone
        found = partitions_of(admin, map(self._kafka.topic, READ), ANSWER_S)
        places = [(name, p) for name in READ for p in found[self._kafka.topic(name)]]
        begins, ends = offsets(self._kafka, admin, places, first=True), offsets(self._kafka, admin, places)
        for place in places:  # what is trimmed meanwhile is passed over
            self._positions[place] = max(begins[place], self._positions.get(place, 0))
        read_ranges(self._kafka, {p: (self._positions[p], ends[p]) for p in places}, self._take, _READ_TIMEOUT_S)
        self._positions |= {p: max(end, self._positions[p]) for p, end in ends.items()}
        return self.evidence

    def _take(self, message: Message) -> None:
        place, offset = place_of(self._kafka, message)
        if offset < self._positions[place]:
            return  # taken in before a reading that was cut short
        self._positions[place] = offset + 1
        try:
            _take(self.evidence, self._kafka.record(message))
        except Undecodable:
            self.evidence.undecodable += 1


def file_sha256(root: Path, event: Event) -> str | None:
    """Of the file that a completed event names; None when there is none."""
    try:
        with (root / event.file).open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError:
        return None


def _take(evidence: Evidence, record: Record) -> None:
    if record.topic in ("tasks.normal", "tasks.high"):
        task = Task.from_record(record)
        story = evidence.stories[task.id]
        story.submitted += task.attempt == 1
        story.failures.update({f.attempt: f for f in task.ledger})
    elif record.topic == "tasks.running":
        entry = decode_journal(record)
        if isinstance(entry, Claim):
            evidence.claims[str(entry.key)] = entry
        else:
            evidence.claims.pop(str(entry.key), None)
    else:
        event = Event.decode(record)
        story = evidence.stories[event.id]
        getattr(story, record.topic.rsplit(".", 1)[1]).append(event)
        story.failures.update({f.attempt: f for f in event.ledger})
