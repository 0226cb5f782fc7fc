"""What one turn of the intake settles by one commit. Pure."""

from dataclasses import dataclass, field

from agents.execution.job import Job
from agents.intake.consumer import Membership
from agents.intake.ready_queue import Pulled
from headrace.contract.journal import Claim
from headrace.contract.records import Outgoing, Place
from headrace.contract.task import Task


@dataclass(slots=True)
class CommitBatch:
    """What is settled by one commit: claims to be made, outcomes of what is refused, repeats that are passed over."""

    membership: Membership
    boot: str
    starts: dict[Place, int] = field(default_factory=dict)
    ends: dict[Place, int] = field(default_factory=dict)
    groups: list[list[Job]] = field(default_factory=list)  # each for one slot
    handed: list[Claim] = field(default_factory=list)  # for other nodes
    outcomes: list[Outgoing] = field(default_factory=list)
    settled: list[Task] = field(default_factory=list)
    seen: set[tuple[Place, str, int]] = field(default_factory=set)

    @property
    def is_empty(self) -> bool:
        return not self.ends

    @property
    def claims(self) -> list[Claim]:
        own = {id(job.claim): job.claim for group in self.groups for job in group}
        return [*own.values(), *self.handed]

    def include(self, pulled: Pulled) -> None:
        self.starts.setdefault(pulled.place, pulled.record.offset)
        self.ends[pulled.place] = pulled.record.offset + 1
        self.settled.append(pulled.task)
