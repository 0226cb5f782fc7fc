"""All that the log, the disk and the listeners say about the tasks of one run: what the conservation check judges.

Read with a plain consumer from the beginning of every topic to its end at the time of asking. Fails only as Kafka does;
records that do not decode are counted, since a forged or garbage record must not blind the check.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Message

from agents.log_reading import ANSWER_S, offsets, read_ranges
from headrace.errors import Undecodable
from headrace.journal import Claim, decode_journal
from headrace.kafka import Kafka
from headrace.ledger import Failure
from headrace.messages import Event, Task
from headrace.records import Record

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


def read_evidence(kafka: Kafka) -> Evidence:
    """Reads every topic of `READ` from beginning to end; Retryable when Kafka does not answer."""
    evidence, admin = Evidence(), kafka.admin()
    found = admin.list_topics(timeout=ANSWER_S).topics
    places = [(name, p) for name in READ for p in found[kafka.topic(name)].partitions]
    begins, ends = offsets(kafka, admin, places, first=True), offsets(kafka, admin, places)

    def take(message: Message) -> None:
        try:
            _take(evidence, kafka.record(message))
        except Undecodable:
            evidence.undecodable += 1

    read_ranges(kafka, {place: (begins[place], ends[place]) for place in places}, take, _READ_TIMEOUT_S)
    return evidence


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
