"""The conservation check: what became of every acknowledged task, judged from evidence (invariants I1, I2, I3, I6).

Pure: takes what `evidence.py` and the listeners saw and the faults that were done, and names every id that breaks
a rule.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import Event
from headrace.contract.states import Cause
from infra.chaos.evidence import Evidence, Story

# Causes that a fault from outside must explain; errors and timeouts are the task's own.
_REAPED_WITHIN_MS = 60_000
_NEEDS_FAULT = {Cause.PROCESS_DEATH, Cause.NODE_LOSS, Cause.OUT_OF_MEMORY, Cause.DRAIN}


@dataclass(frozen=True, slots=True)
class Done:
    """A fault that was done. `node` "" = it can touch every node (the broker, a rolling restart)."""

    what: str
    node: str
    begun_ms: int
    ended_ms: int


@dataclass(slots=True)
class Verdict:
    """Ids by what is wrong with them. Empty everywhere means: nothing lost, nothing twice, nothing run in vain."""

    tasks: int = 0
    completed: int = 0
    dead: int = 0
    replays: int = 0  # attempts above the first
    lost: list[str] = field(default_factory=list)  # acknowledged, and never ended
    published_twice: list[str] = field(default_factory=list)  # terminal events that differ, or a listener told twice
    rerun_without_crash: list[str] = field(
        default_factory=list
    )  # an attempt started twice, or a replay no fault explains
    bad_files: list[str] = field(default_factory=list)  # no file, or not the bytes of its SHA-256
    unreceived: list[str] = field(default_factory=list)  # ended without a received event
    unclosed: list[str] = field(default_factory=list)  # claims that stayed behind
    unknown: list[str] = field(default_factory=list)  # ended, but nobody submitted it

    @property
    def good(self) -> bool:
        return not any(
            (
                self.lost,
                self.published_twice,
                self.rerun_without_crash,
                self.bad_files,
                self.unreceived,
                self.unclosed,
                self.unknown,
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
        }
        lines = [f"{self.tasks} tasks: {self.completed} completed, {self.dead} dead, {self.replays} replays"]
        lines += [f"  {name} {len(ids)} {' '.join(ids[:5])}".rstrip() for name, ids in found.items()]
        return "\n".join(lines)


def judge(
    acknowledged: Iterable[str],
    evidence: Evidence,
    sha256_of: Callable[[Event], str | None],
    faults: Sequence[Done] = (),
    suicidal: frozenset[str] = frozenset(),
    told: Mapping[str, int] | None = None,
    lease_ms: int = 12_000,
) -> Verdict:
    """`suicidal`: ids that kill their own process; `told`: terminal events per id that one listener heard."""
    verdict = Verdict()
    known = set(acknowledged)
    for task_id in known:
        story = evidence.stories.get(task_id, Story())
        verdict.tasks += 1
        verdict.completed += bool(story.completed)
        verdict.dead += bool(story.dead)
        verdict.replays += len({e.attempt for e in story.started} - {1})
        if not story.terminal:
            verdict.lost.append(task_id)
        elif not story.received:
            verdict.unreceived.append(task_id)
        if _disagree(story) or (told or {}).get(task_id, 0) > 1:
            verdict.published_twice.append(task_id)
        if _started_twice(story) or any(
            not _explained(f, faults, task_id in suicidal, lease_ms) for f in story.failures.values()
        ):
            verdict.rerun_without_crash.append(task_id)
        if story.completed and sha256_of(story.completed[0]) != story.completed[0].sha256:
            verdict.bad_files.append(task_id)
    verdict.unclosed = sorted(evidence.claims)
    verdict.unknown = sorted(
        i for i, s in evidence.stories.items() if i not in known and s.terminal and not (s.submitted or s.received)
    )
    return verdict


def _disagree(story: Story) -> bool:
    """Repeats of one terminal event are allowed, as readers keep the first; two that differ are not."""
    said = {(e.topic, e.outcome_offset, e.sha256, e.reason) for e in story.terminal}
    return len(said) > 1


def _started_twice(story: Story) -> bool:
    starts: dict[int, set[str]] = {}
    for e in story.started:
        starts.setdefault(e.attempt, set()).add(e.source)
    return any(len(sources) > 1 for sources in starts.values())


def _explained(failure: Failure, faults: Sequence[Done], suicidal: bool, lease_ms: int) -> bool:
    if failure.cause not in _NEEDS_FAULT or suicidal:
        return True
    # What a lost node ran is known by when it was reaped alone, and partitions may have to move before that.
    latest_ms = failure.started_ms or failure.ended_ms - _REAPED_WITHIN_MS
    return any(
        f.node in ("", failure.node) and f.begun_ms - 1000 <= failure.ended_ms and latest_ms <= f.ended_ms + lease_ms
        for f in faults
    )
