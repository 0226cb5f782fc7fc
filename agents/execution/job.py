"""What passes between the parts of a worker node: jobs that may start, and how their attempts ended."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.contract.cluster import KindInfo
from headrace.contract.journal import Claim
from headrace.contract.records import Source
from headrace.contract.states import Cause
from headrace.contract.submission import Submission
from headrace.contract.task import Task

Key = tuple[str, int, Source]  # id, attempt, and source: an id sent to two partitions runs twice, maybe at once


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt whose claim is acknowledged and whose source is committed: it may start now."""

    claim: Claim
    task: Task
    submission: Submission
    kind: KindInfo

    @property
    def key(self) -> Key:
        """By which the node tells its jobs apart."""
        return self.task.id, self.task.attempt, self.task.source

    @property
    def timeout_s(self) -> float:
        return self.submission.timeout_s or self.kind.timeout_s

    @property
    def max_attempts(self) -> int:
        return self.submission.max_attempts or self.kind.max_attempts


Jobs = Sequence[Job]  # for one slot, one after another: a single one, or a chunk of tiny ones


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended. With `cause` None it completed, and the result is `value` or, when large, `result_file`."""

    started_ms: int
    ended_ms: int
    value: bytes | None = None
    result_file: Path | None = None  # removed by whoever has sent it
    content_type: str = ""
    suffix: str = ""
    cause: Cause | None = None
    detail: str = ""  # the traceback's last lines, the signal, the limit
    begun: bool = True  # False: it was stopped before its turn came, and lifecycle.started is not sent
    invalid: bool = False  # cause error, and the payload is at fault: trying again cannot help
    chosen: bool = False  # cause out-of-memory, and the kernel chose the process: a neighbour may be at fault

    @classmethod
    def now(cls, cause: Cause, detail: str, *, begun: bool = False) -> "AttemptEnd":
        """Of an attempt in which no process had a part: stopped before its turn, or impossible to run here."""
        now_ms = time.time_ns() // 1_000_000
        return cls(now_ms, now_ms, cause=cause, detail=detail, begun=begun)
