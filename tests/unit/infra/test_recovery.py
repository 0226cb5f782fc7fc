"""A recovery time lasts from a fault to the next attempt, and counts for the fault that caused it."""

from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import Event
from headrace.contract.states import Cause
from infra.chaos.conservation import InjectedFault
from infra.chaos.evidence import Evidence, TaskHistory
from infra.chaos.recovery import BROKER, CHILD, FROZEN, NODE, SAME_HOST, format_times, recoveries


def story(*failures: Failure, starts: tuple[int, ...]) -> TaskHistory:
    """One whose attempts began at these times."""
    began = [Event("lifecycle.started", "x", at_ms, attempt=n) for n, at_ms in enumerate(starts, 1)]
    return TaskHistory(1, [], began, [], [], {f.attempt: f for f in failures})


def times(*stories: TaskHistory, faults: tuple[InjectedFault, ...] = ()) -> dict[str, list[float]]:
    return recoveries(Evidence({str(i): s for i, s in enumerate(stories)}), faults)


def death(attempt: int, ended_ms: int) -> Failure:
    return Failure(attempt, Cause.PROCESS_DEATH, node="node-1", started_ms=ended_ms - 5, ended_ms=ended_ms)


def test_only_a_tasks_first_death_counts_because_the_second_waits_for_its_backoff() -> None:
    found = times(story(death(1, 2000), death(2, 3000), starts=(1000, 2200, 4000)), story(starts=(1,)))
    assert found == {CHILD: [0.2], SAME_HOST: [], NODE: [], FROZEN: [], BROKER: []}


def test_a_lost_node_counts_from_its_own_last_kill() -> None:
    lost = Failure(1, Cause.NODE_LOSS, node="node-1", started_ms=0, ended_ms=12_000)
    faults = (
        InjectedFault("kill_node", "node-1", 1000, 2000),
        InjectedFault("kill_node", "node-1", 10_000, 11_000),
        InjectedFault("lose_node", "node-2", 11_500, 11_600),
    )
    assert times(story(lost, starts=(500, 12_500)), faults=faults)[SAME_HOST] == [2.5]
    away = Failure(1, Cause.NODE_LOSS, node="node-2", started_ms=0, ended_ms=20_000)
    assert times(story(away, starts=(500, 21_000)), faults=faults)[NODE] == [9.5]
    drained = Failure(1, Cause.DRAIN, node="node-1", started_ms=0, ended_ms=12_000)
    assert times(story(drained, starts=(500, 12_500)), faults=faults) == times()


def test_a_frozen_node_is_not_charged_to_the_kill_that_it_had_recovered_from() -> None:
    lost = Failure(1, Cause.NODE_LOSS, node="node-1", started_ms=0, ended_ms=50_000)
    faults = (
        InjectedFault("kill_node", "node-1", 10_000, 11_000),
        InjectedFault("freeze_node", "node-1", 40_000, 52_000),
    )
    found = times(story(lost, starts=(500, 50_500)), faults=faults)
    assert (found[FROZEN], found[SAME_HOST]) == ([10.5], [])


def test_a_broker_counts_until_the_next_start_of_any_task() -> None:
    faults = (InjectedFault("kill_broker", "", 10_000, 14_000),)
    assert times(story(starts=(9000,)), story(starts=(15_500,)), faults=faults)[BROKER] == [5.5]
    assert times(story(starts=(9000,)), faults=faults)[BROKER] == []


def test_times_are_printed_with_median_and_longest() -> None:
    text = format_times({CHILD: [0.1, 0.2, 4.0], NODE: []})
    assert "3 times, median 0.20 s, 95% within 0.20 s, longest 4.00 s" in text
    assert text.splitlines()[1].endswith("not met")
