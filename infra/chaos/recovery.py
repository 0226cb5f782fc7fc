"""Recovery times: how long each kind of fault kept its tasks waiting, from the fault to the next attempt. Pure.

Times are milliseconds since the epoch; faults have this machine's clock, records the broker's, so both must run on one
machine. Computed after the run, from the evidence of the conservation check.
"""

from collections.abc import Iterator, Sequence
from statistics import median

from headrace.contract.states import Cause

from .conservation import InjectedFault
from .evidence import Evidence, TaskHistory

CHILD = "child death to its replay"
SAME_HOST = "node kill -9, back on the same host, to replay"
NODE = "node kill -9, staying away, to replay"
FROZEN = "node frozen past its lease, to replay"
BROKER = "broker kill -9 to the next start of a task"
_BY_FAULT = {"kill_node": SAME_HOST, "lose_node": NODE, "freeze_node": FROZEN}
_LATEST_MS = 120_000  # a node loss later than this belongs to another fault


def recoveries(evidence: Evidence, faults: Sequence[InjectedFault]) -> dict[str, list[float]]:
    """Recovery times in seconds, ascending, by kind of fault; empty for a kind that hit no task.

    Only the first death of a task counts, because later ones also wait for their backoff. All replays wait for a free
    slot.
    """
    found: dict[str, list[float]] = {kind: [] for kind in (CHILD, SAME_HOST, NODE, FROZEN, BROKER)}
    for history in evidence.histories.values():
        for kind, seconds in _of_history(history, faults):
            found[kind].append(seconds)
    starts = sorted(e.at_ms for s in evidence.histories.values() for e in s.started)
    for fault in faults:
        if fault.fault == "kill_broker":
            later = next((at for at in starts if at > fault.begun_ms + 500), None)
            found[BROKER] += [(later - fault.begun_ms) / 1000] if later is not None else []
    return {kind: sorted(seconds) for kind, seconds in found.items()}


def format_times(times: dict[str, list[float]]) -> str:
    """A line for each kind of fault."""
    return "\n".join(
        f"  {kind:48} {len(s):4} times, median {median(s):.2f} s, 95% within {s[int(0.95 * (len(s) - 1))]:.2f} s, "
        f"longest {s[-1]:.2f} s"
        if s
        else f"  {kind:48}    not met"
        for kind, s in times.items()
    )


def _of_history(history: TaskHistory, faults: Sequence[InjectedFault]) -> Iterator[tuple[str, float]]:
    began = {e.attempt: e.at_ms for e in reversed(history.started)}  # the first start of each attempt
    deaths = [f.attempt for f in history.failures.values() if f.cause == Cause.PROCESS_DEATH]
    for attempt, failure in history.failures.items():
        again_ms = began.get(attempt + 1)
        if again_ms is None:
            continue
        if failure.cause == Cause.PROCESS_DEATH and attempt == min(deaths):
            yield CHILD, max(0.0, (again_ms - failure.ended_ms) / 1000)
        elif failure.cause == Cause.NODE_LOSS:
            fault = _last_before(faults, failure.node, failure.ended_ms)
            if fault is not None:
                yield _BY_FAULT[fault.fault], (again_ms - fault.begun_ms) / 1000


def _last_before(faults: Sequence[InjectedFault], node: str, at_ms: int) -> InjectedFault | None:
    """The last fault of that node before its loss; the node had recovered from earlier ones."""
    fits = (f for f in faults if f.fault in _BY_FAULT and f.node == node and 0 <= at_ms - f.begun_ms < _LATEST_MS)
    return max(fits, key=lambda f: f.begun_ms, default=None)
