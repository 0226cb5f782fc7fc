"""The journal `tasks.running`: which boot runs which task, at which attempt (docs/protocol.md).

Intake, delegation and finisher write claims and tombstones; the reaper judges them. A claim's value is the claimed
submissions as they came, one after another. Everything else is in headers, so no submission is encoded again and a
claim is hardly larger than its submissions. A tombstone says why the claim ended. An epoch's mark begins the claims of
a partition's owner. Undecodable for anything else.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

import orjson

from headrace.contract.bounds import MAX_ATTEMPTS, MAX_BOOT_CHARACTERS, MAX_INT64, MAX_TIME_MS, whole_number
from headrace.contract.ids import id_of_key
from headrace.contract.ledger import decode_ledger, encode_ledger
from headrace.contract.ownership import Ownership
from headrace.contract.records import Outgoing, Record, Source, headers_of
from headrace.contract.task import Task
from headrace.errors import Undecodable

Phase = Literal["claimed", "go"]
_CLAIMED = ("tasks.normal", "tasks.high")
Why = Literal["done", "retried", "void", "reaped"]
_EPOCH = "epoch"  # the `why` of a mark
_NO_TASK = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class ClaimKey:
    """`id:topic/partition/offset:boot` of the first member. With the boot, each key has one living writer."""

    id: str
    source: Source
    boot: str

    def __str__(self) -> str:
        return f"{self.id}:{self.source}:{self.boot}"

    @classmethod
    def parse(cls, raw: bytes | None) -> "ClaimKey":
        try:
            task_id, source, boot = (raw or b"").decode().split(":")
        except ValueError:
            raise Undecodable("the key of a claim must be id:topic/partition/offset:boot", raw) from None
        place = Source.parse(source)
        known = 0 < len(boot) <= MAX_BOOT_CHARACTERS and place.topic in _CLAIMED
        if id_of_key(task_id.encode()) != task_id or not known:
            raise Undecodable("the key of a claim must be id:topic/partition/offset:boot", raw)
        return cls(task_id, place, boot)

    @classmethod
    def of(cls, record: Record) -> "ClaimKey":
        """The key of a record of the journal; Undecodable when the record is not in its source's partition, or no role
        can have sent it."""
        record.check_size()
        key = cls.parse(record.key)
        if record.partition != key.source.partition:
            raise Undecodable("a claim must be in the partition of its source", record.value)
        return key


@dataclass(frozen=True, slots=True)
class Claim:
    """One boot's hold on one record of a task topic, or on several records of one partition (a micro-batch)."""

    tasks: tuple[Task, ...]  # of one partition, in ascending offsets
    _: KW_ONLY
    by: str  # boot that claims
    for_: str  # boot that runs
    generation: int  # of the group headrace-tasks at the pull
    epoch: int | None = None  # offset of its owner's mark in the journal; None in claims of older versions
    node: str  # name of the node that runs
    phase: Phase = "claimed"

    @property
    def key(self) -> ClaimKey:
        return ClaimKey(self.tasks[0].id, self.tasks[0].source, self.by)

    @property
    def responsible(self) -> str:
        """The boot whose death lets the reaper judge this claim."""
        return self.for_ if self.phase == "go" else self.by

    def go(self) -> "Claim":
        """The same claim in phase `go`: from now on the boot that runs is responsible."""
        return replace(self, phase="go")

    def encode(self) -> Outgoing:
        members = [
            {
                "id": t.id,
                "attempt": t.attempt,
                "offset": t.source.offset,
                "bytes": len(t.raw),
                "submitted_ms": t.submitted_ms,
                "ledger": orjson.Fragment(encode_ledger(t.ledger)),
                "foreign": [[k, v.hex()] for k, v in t.foreign],
            }
            for t in self.tasks
        ]
        headers = {
            "by": self.by,
            "for": self.for_,
            "phase": self.phase,
            "generation": self.generation,
            "epoch": self.epoch,
            "node": self.node,
            "source": self.tasks[0].source,
            "members": orjson.dumps(members),
        }
        return Outgoing(
            "tasks.running",
            str(self.key).encode(),
            b"".join(t.raw for t in self.tasks),
            headers_of(headers),
            self.tasks[0].source.partition,
        )

    def ownership(self, at: int) -> Ownership:
        """`at`: see Ownership."""
        return Ownership(self.epoch, self.generation, -1 if self.epoch is not None else at)

    def tombstone(self, why: Why) -> Outgoing:
        """Without an epoch also without the generation: the tombstone may outlive the claim and its group, and would
        then make claims of a new group void."""
        return tombstone(self.key, self.generation if self.epoch is not None else 0, why, self.epoch)

    @classmethod
    def decode(cls, record: Record) -> "Claim":
        key = ClaimKey.of(record)
        raw, at, tasks = record.value or b"", 0, []
        try:
            for m in orjson.loads(record.raw("members")):
                size = whole_number(m["bytes"], len(raw) - at)
                tasks.append(_member(m, raw[at : at + size], key.source))
                at += size
        except (ValueError, KeyError, TypeError, OverflowError) as e:
            raise Undecodable(f"not a claim: {e}", record.value) from None
        phase: Phase = "go" if record.text("phase") == "go" else "claimed"
        if (
            not tasks
            or tasks[0].id != key.id
            or tasks[0].source != key.source
            or at != len(raw)
            or record.text("phase") != phase
            or record.text("by") != key.boot
        ):
            raise Undecodable("not a claim: key, headers and value contradict each other", record.value)
        return cls(
            tuple(tasks),
            by=key.boot,
            for_=record.text("for"),
            generation=record.number("generation"),
            epoch=_epoch_in(record),
            node=record.text("node", ""),
            phase=phase,
        )


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The end of a claim. Kafka keeps it for `delete.retention.ms`, so that reapers still see its generation."""

    key: ClaimKey
    generation: int
    why: str
    epoch: int | None = None

    def ownership(self, at: int) -> Ownership:
        """`at`: see Ownership."""
        return Ownership(self.epoch, self.generation, -1 if self.epoch is not None else at)

    @classmethod
    def decode(cls, record: Record) -> "Tombstone":
        epoch = _epoch_in(record)
        return cls(ClaimKey.of(record), record.number("generation", 0), record.text("why", ""), epoch)


@dataclass(frozen=True, slots=True)
class EpochMark:
    """A record whose offset becomes the epoch of its writer's claims in that partition (`headrace.contract.ownership`).

    Older versions take it for a tombstone, of a claim that never was: it changes nothing for them.
    """

    partition: int
    boot: str

    @property
    def key(self) -> ClaimKey:
        return ClaimKey(_NO_TASK, Source("tasks.normal", self.partition, 0), self.boot)

    def encode(self) -> Outgoing:
        return _end_of(self.key, {"generation": 0, "why": _EPOCH})

    @classmethod
    def decode(cls, record: Record) -> "EpochMark":
        return cls(record.partition, ClaimKey.of(record).boot)


def tombstone(key: ClaimKey, generation: int, why: Why, epoch: int | None = None) -> Outgoing:
    """The record that ends a claim."""
    return _end_of(key, {"generation": generation, "epoch": epoch, "why": why})


def _end_of(key: ClaimKey, headers: dict[str, object]) -> Outgoing:
    own = headers_of({"source": key.source} | headers)
    return Outgoing("tasks.running", str(key).encode(), None, own, key.source.partition)


def _epoch_in(record: Record) -> int | None:
    return record.number("epoch") if record.text("epoch", "") else None


def _member(m: dict[str, Any], raw: bytes, first: Source) -> Task:
    """One task of a claim. `first` is the source of the first one; all are in its partition."""
    task_id = str(m["id"])
    if id_of_key(task_id.encode()) != task_id:
        raise ValueError("the id of a member is not a task id")
    source = Source(first.topic, first.partition, whole_number(m["offset"], MAX_INT64, first.offset))
    foreign = tuple((str(k), bytes.fromhex(v)) for k, v in m["foreign"])
    ledger = decode_ledger(orjson.dumps(m["ledger"]))
    attempt, submitted_ms = whole_number(m["attempt"], MAX_ATTEMPTS, 1), whole_number(m["submitted_ms"], MAX_TIME_MS)
    return Task(
        task_id,
        raw,
        attempt=attempt,
        source=source,
        submitted_ms=submitted_ms,
        ledger=ledger,
        foreign=foreign,
        keep_unknown=True,  # it was admitted before it was claimed
    )


def offsets_to_commit(claims: Sequence[Claim]) -> dict[tuple[str, int], int]:
    """(topic, partition) -> offset to commit after these claims: one past the highest source."""
    ends: dict[tuple[str, int], int] = {}
    for claim in claims:
        for t in claim.tasks:
            place = (t.source.topic, t.source.partition)
            ends[place] = max(ends.get(place, 0), t.source.offset + 1)
    return ends


def decode_journal(record: Record) -> Claim | Tombstone | EpochMark:
    """The claim, tombstone or mark in a record of `tasks.running`; Undecodable for anything else."""
    if record.value is not None:
        return Claim.decode(record)
    return EpochMark.decode(record) if record.text("why", "") == _EPOCH else Tombstone.decode(record)
