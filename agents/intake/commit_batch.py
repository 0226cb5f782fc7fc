"""The records that the intake settles by one commit. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.contract.journal import Claim
from headrace.contract.records import Outgoing, Place
from headrace.contract.task import Task

from ..execution.job import Job
from .consumer import Membership
from .micro_batching import MicroBatch
from .ready_queue import Pulled


@dataclass(slots=True)
class CommitBatch:
    """Claims to make, outcomes of refused tasks, and repeats, with the offsets that their one commit is for."""

    membership: Membership
    boot: str
    epochs: Mapping[int, int]  # by partition, of all records that may be added
    starts: dict[Place, int] = field(default_factory=dict)  # offset of each partition's first record in the batch
    ends: dict[Place, int] = field(default_factory=dict)  # offsets to commit: past its last record, or markers after it
    groups: list[list[Job]] = field(default_factory=list)  # the jobs for one slot each
    delegated: list[Claim] = field(default_factory=list)  # for other nodes
    outcomes: list[Outgoing] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)  # of all records
    seen: set[tuple[Place, str, int]] = field(default_factory=set)  # place, task id and attempt of each
    is_given_back: bool = False  # its records will be pulled again

    @property
    def is_empty(self) -> bool:
        return not self.ends

    @property
    def claims(self) -> list[Claim]:
        own = {id(job.claim): job.claim for group in self.groups for job in group}
        return [*own.values(), *self.delegated]

    def add_record(self, pulled: Pulled) -> None:
        self.starts.setdefault(pulled.place, pulled.record.offset)
        self.ends[pulled.place] = pulled.record.offset + 1
        self.tasks.append(pulled.task)
        if pulled.header_error is None:
            self.seen.add((pulled.place, pulled.task.id, pulled.task.attempt))

    def claim(self, tasks: tuple[Task, ...], boot: str, node: str) -> Claim:
        """A claim on tasks of one partition. `boot` and `node` are to run it."""
        epoch = self.epochs[tasks[0].source.partition]
        return Claim(tasks, by=self.boot, for_=boot, generation=self.membership[0], epoch=epoch, node=node)

    def has_seen(self, pulled: Pulled) -> bool:
        """Whether an earlier record of the batch is the same task at the same attempt, in the same partition."""
        return (pulled.place, pulled.task.id, pulled.task.attempt) in self.seen

    def claimed_jobs(self, micro_batch: MicroBatch, node: str) -> list[Job]:
        """The jobs of a micro-batch; those from the same partition share one claim. `node` is this node's name."""
        tasks = defaultdict(list)
        for pulled, _ in micro_batch.members:
            tasks[pulled.place].append(pulled.task)
        claims = {place: self.claim(tuple(members), self.boot, node) for place, members in tasks.items()}
        return [
            Job(claims[pulled.place], pulled.task, admitted.submission, admitted.kind)
            for pulled, admitted in micro_batch.members
        ]
