"""How long each kind of fault kept its tasks waiting: what the log says between a harm and what repaired it. Pure.

Times are milliseconds since the epoch by the clock of one machine: the faults' is ours, the log's the broker's. Judged
after the run, from the evidence that the conservation check has too.
"""

from collections.abc import Iterator, Sequence
from statistics import median

from headrace.contract.states import Cause
from infra.chaos.conservation import Done
from infra.chaos.evidence import Evidence, Story

CHILD = "child death to its replay"
SAME_HOST = "node kill -9, back on the same host, to replay"
NODE = "node kill -9, staying away, to replay"
FROZEN = "node frozen past its lease, to replay"
BROKER = "broker kill -9 to the next start of a task"
_BY_FAULT = {"kill_node": SAME_HOST, "lose_node": NODE, "freeze_node": FROZEN}
_LATEST_MS = 120_000  # a loss that was reaped later belongs to another fault


def recoveries(evidence: Evidence, faults: Sequence[Done]) -> dict[str, list[float]]:
    """Seconds by kind of fault, ascending; a kind that met no task has none.

    Replays wait for a free slot like all else, and the second death of a task waits for its backoff too: of deaths the
    first of each task counts.
    """
    found: dict[str, list[float]] = {kind: [] for kind in (CHILD, SAME_HOST, NODE, FROZEN, BROKER)}
    for story in evidence.stories.values():
        for kind, seconds in _of_story(story, faults):
            found[kind].append(seconds)
    starts = sorted(e.at_ms for s in evidence.stories.values() for e in s.started)
    for fault in faults:
        if fault.what == "kill_broker":
            later = next((at for at in starts if at > fault.begun_ms + 500), None)
            found[BROKER] += [(later - fault.begun_ms) / 1000] if later is not None else []
    return {kind: sorted(seconds) for kind, seconds in found.items()}


def told(times: dict[str, list[float]]) -> str:
    """The recovery times as a person reads them."""
    return "\n".join(
        f"  {kind:48} {len(s):4} times, median {median(s):.2f} s, 95% within {s[int(0.95 * (len(s) - 1))]:.2f} s, "
        f"longest {s[-1]:.2f} s"
        if s
        else f"  {kind:48}    not met"
        for kind, s in times.items()
    )


def _of_story(story: Story, faults: Sequence[Done]) -> Iterator[tuple[str, float]]:
    began = {e.attempt: e.at_ms for e in reversed(story.started)}  # the first of each attempt
    deaths = [f.attempt for f in story.failures.values() if f.cause == Cause.PROCESS_DEATH]
    for attempt, failure in story.failures.items():
        again_ms = began.get(attempt + 1)
        if again_ms is None:
            continue
        if failure.cause == Cause.PROCESS_DEATH and attempt == min(deaths):
            yield CHILD, max(0.0, (again_ms - failure.ended_ms) / 1000)
        elif failure.cause == Cause.NODE_LOSS:
            fault = _last_before(faults, failure.node, failure.ended_ms)
            if fault is not None:
                yield _BY_FAULT[fault.what], (again_ms - fault.begun_ms) / 1000


def _last_before(faults: Sequence[Done], node: str, at_ms: int) -> Done | None:
    """What was done to that node last: the loss is of it, and not of what the node had recovered from before."""
    fits = (f for f in faults if f.what in _BY_FAULT and f.node == node and 0 <= at_ms - f.begun_ms < _LATEST_MS)
    return max(fits, key=lambda f: f.begun_ms, default=None)
