"""What the parts of a worker node hand to each other: jobs that may start, and how their attempts ended."""

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

Key = tuple[str, int, Source]  # id, attempt, source: an id sent to two partitions runs twice, perhaps at the same time


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt whose claim is acknowledged and whose source is committed: it may start now."""

    claim: Claim
    task: Task
    submission: Submission
    kind: KindInfo

    @property
    def key(self) -> Key:
        """Identifies the job on its node."""
        return self.task.id, self.task.attempt, self.task.source

    @property
    def timeout_s(self) -> float:
        return self.submission.timeout_s or self.kind.timeout_s

    @property
    def max_attempts(self) -> int:
        return self.submission.max_attempts or self.kind.max_attempts


Jobs = Sequence[Job]  # for one slot, one after another: a single one, or a micro-batch of tiny ones


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended. With `cause` None it completed, and the result is `value` or, when large, `result_file`."""

    started_ms: int
    ended_ms: int
    value: bytes | None = None
    result_file: Path | None = None  # the finisher removes it when its content is sent
    content_type: str = ""
    suffix: str = ""
    took_s: float = 0.0  # of a completed attempt, by its child's own clock: what it takes of the slot's time
    cause: Cause | None = None
    detail: str = ""  # the last lines of the traceback, the signal, or the exceeded limit
    begun: bool = True  # False: stopped before it ran, and lifecycle.started is not sent
    invalid: bool = False  # cause error, because of the payload: a retry cannot help
    permanent: bool = False  # cause error, because of what was returned: a retry cannot help either
    oom_victim: bool = False  # cause out-of-memory, by the kernel's choice: another attempt may have taken the memory

    @classmethod
    def now(cls, cause: Cause, detail: str, *, begun: bool = False) -> "AttemptEnd":
        """The end of an attempt that had no process: stopped before it ran, or impossible to run here."""
        now_ms = time.time_ns() // 1_000_000
        return cls(now_ms, now_ms, cause=cause, detail=detail, begun=begun)
