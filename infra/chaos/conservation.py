"""The conservation check: judges from evidence how every acknowledged task ended (invariants I1, I2, I3, I6).

Pure: takes the evidence from the log, the listener's counts and the injected faults, and lists every id that breaks an
invariant (docs/invariants.md). Called by `schedule` and `tests/faults`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import Event
from headrace.contract.states import Cause, Reason

from .evidence import Evidence, TaskHistory

_REAPED_WITHIN_MS = 60_000
# Faults may hit one task more often than its budget allows; more than these ids must have another cause.
_FEW_CRASHED, _CRASHED_SHARE = 3, 0.05
# Causes that need an injected fault as explanation; errors and timeouts are the task's own.
_NEEDS_FAULT = {Cause.PROCESS_DEATH, Cause.NODE_LOSS, Cause.OUT_OF_MEMORY, Cause.DRAIN}


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """One injected fault. `node` "" = it may affect every node (a broker, a rolling restart)."""

    fault: str
    node: str
    begun_ms: int
    ended_ms: int


@dataclass(slots=True)
class Verdict:
    """Counts of tasks, and the ids of those that break an invariant, by the kind of violation."""

    tasks: int = 0
    completed: int = 0
    dead: int = 0
    replays: int = 0  # attempts above the first
    lost: list[str] = field(default_factory=list)  # acknowledged, but never ended
    published_twice: list[str] = field(default_factory=list)  # different terminal events, or two for the listener
    rerun_without_crash: list[str] = field(
        default_factory=list
    )  # an attempt started twice, or a replay without a fault
    bad_files: list[str] = field(default_factory=list)  # the file is missing, or its SHA-256 differs
    unreceived: list[str] = field(default_factory=list)  # ended without a lifecycle.received event
    unclosed: list[str] = field(default_factory=list)  # journal keys of claims without a tombstone
    unknown: list[str] = field(default_factory=list)  # ended, but were never submitted
    died: list[str] = field(default_factory=list)  # dead letters that neither the workload nor the faults explain

    @property
    def good(self) -> bool:
        """Whether no task breaks an invariant."""
        return not any(
            (
                self.lost,
                self.published_twice,
                self.rerun_without_crash,
                self.bad_files,
                self.unreceived,
                self.unclosed,
                self.unknown,
                self.died,
            )
        )

    def __str__(self) -> str:
        found = {
            "lost": self.lost,
            "published twice": self.published_twice,
            "re-run without a crash": self.rerun_without_crash,
            "bad files": self.bad_files,
            "not received": self.unreceived,
            "claims left behind": self.unclosed,
            "unknown": self.unknown,
            "dead without need": self.died,
        }
        lines = [f"{self.tasks} tasks: {self.completed} completed, {self.dead} dead, {self.replays} replays"]
        lines += [f"  {name} {len(ids)} {' '.join(ids[:5])}".rstrip() for name, ids in found.items()]
        return "\n".join(lines)


def judge(
    acknowledged: Iterable[str],
    evidence: Evidence,
    sha256_of: Callable[[Event], str | None],
    faults: Sequence[InjectedFault] = (),
    suicidal: frozenset[str] = frozenset(),
    heard: Mapping[str, int] | None = None,
    lease_ms: int = 12_000,
    poison: frozenset[str] = frozenset(),
) -> Verdict:
    """Judges every acknowledged id.

    `suicidal`: ids whose tasks kill their own process. `heard`: number of terminal events that a listener got, by id.
    `lease_ms`: how long after a fault a lost node may still be declared dead. `poison`: ids of tasks that must die.
    """
    verdict, crashed = Verdict(), list[str]()
    known = set(acknowledged)
    for task_id in known:
        history = evidence.histories.get(task_id, TaskHistory())
        verdict.tasks += 1
        verdict.completed += bool(history.completed)
        verdict.dead += bool(history.dead)
        verdict.replays += len({e.attempt for e in history.started} - {1})
        if history.dead and not history.completed and task_id not in poison:
            (crashed if history.dead[0].reason == Reason.CRASHED else verdict.died).append(task_id)
        if not history.terminal:
            verdict.lost.append(task_id)
        elif not history.received:
            verdict.unreceived.append(task_id)
        if _disagree(history) or (heard or {}).get(task_id, 0) > 1:
            verdict.published_twice.append(task_id)
        if _started_twice(history) or any(
            not _explained(f, faults, task_id in suicidal, lease_ms) for f in history.failures.values()
        ):
            verdict.rerun_without_crash.append(task_id)
        if history.completed and sha256_of(history.completed[0]) != history.completed[0].sha256:
            verdict.bad_files.append(task_id)
    if len(crashed) > max(_FEW_CRASHED, _CRASHED_SHARE * len(known)):
        verdict.died += crashed
    verdict.unclosed = sorted(evidence.claims)
    verdict.unknown = sorted(
        i for i, s in evidence.histories.items() if i not in known and s.terminal and not (s.submitted or s.received)
    )
    return verdict


def _disagree(history: TaskHistory) -> bool:
    """Repeats of one terminal event are allowed, because readers keep the first; different ones are not."""
    distinct = {(e.topic, e.outcome_offset, e.sha256, e.reason) for e in history.terminal}
    return len(distinct) > 1


def _started_twice(history: TaskHistory) -> bool:
    """Rule D holds within a partition: an id that was submitted to several starts once for each of them."""
    starts: dict[int, set[str]] = {}
    for e in history.started:
        starts.setdefault(e.attempt, set()).add(e.source)
    allowed = {1: max(1, len(history.submitted_to))}
    return any(len(sources) > allowed.get(attempt, 1) for attempt, sources in starts.items())


def _explained(failure: Failure, faults: Sequence[InjectedFault], suicidal: bool, lease_ms: int) -> bool:
    if failure.cause not in _NEEDS_FAULT or suicidal:
        return True
    # Without a start time only the time of reaping is known, before which partitions may have to move.
    latest_ms = failure.started_ms or failure.ended_ms - _REAPED_WITHIN_MS
    return any(
        f.node in ("", failure.node) and f.begun_ms - 1000 <= failure.ended_ms and latest_ms <= f.ended_ms + lease_ms
        for f in faults
    )
