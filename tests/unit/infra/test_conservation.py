"""The conservation check must find each kind of violation; each test has evidence with exactly one."""

import pytest

from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import Event
from headrace.contract.states import Cause, Reason
from infra.chaos.conservation import InjectedFault, Verdict, judge
from infra.chaos.evidence import Evidence, TaskHistory

ID = "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"


def started(attempt: int, source: str = "tasks.normal/0/1") -> Event:
    return Event("lifecycle.started", ID, 1000, attempt=attempt, source=source, node="node-1")


def completed(offset: int = 7, sha256: str = "aa") -> Event:
    return Event("lifecycle.completed", ID, 2000, file=f"demo/{ID}.json", sha256=sha256, outcome_offset=offset)


def healthy() -> TaskHistory:
    return TaskHistory(1, [Event("lifecycle.received", ID, 1000)], [started(1)], [completed()])


def verdict_on(
    story: TaskHistory, *faults: InjectedFault, sha256: str | None = "aa", heard: int = 1, suicidal: bool = False
) -> Verdict:
    evidence = Evidence()
    evidence.histories[ID] = story
    return judge([ID], evidence, lambda _: sha256, faults, frozenset({ID} if suicidal else ()), {ID: heard})


def test_a_healthy_task_breaks_no_rule() -> None:
    verdict = verdict_on(healthy())
    assert verdict.good
    assert (verdict.tasks, verdict.completed, verdict.dead, verdict.replays) == (1, 1, 0, 0)


def test_a_task_without_an_end_is_lost() -> None:
    story = healthy()
    story.completed = []
    assert verdict_on(story).lost == [ID]


def test_an_acknowledged_task_that_the_log_does_not_know_is_lost() -> None:
    assert judge([ID], Evidence(), lambda _: None).lost == [ID]


def test_the_same_terminal_event_twice_is_a_repeat_and_no_harm() -> None:
    story = healthy()
    story.completed = [completed(), completed()]
    assert verdict_on(story).good


@pytest.mark.parametrize(
    "second",
    [completed(offset=9), completed(sha256="bb"), Event("tasks.dead", ID, 1, reason=Reason.CANCELLED)],
)
def test_two_terminal_events_that_differ_are_published_twice(second: Event) -> None:
    story = healthy()
    (story.dead if second.reason else story.completed).append(second)
    assert verdict_on(story).published_twice == [ID]


def test_a_listener_that_heard_the_end_twice_counts() -> None:
    assert verdict_on(healthy(), heard=2).published_twice == [ID]


def test_an_attempt_started_from_two_records_is_run_again() -> None:
    story = healthy()
    story.started.append(started(1, "tasks.high/0/4"))
    assert verdict_on(story).rerun_without_crash == [ID]


def test_an_id_submitted_to_two_partitions_starts_in_each() -> None:
    history = healthy()
    history.started.append(started(1, "tasks.normal/1/4"))
    history.submitted_to = {("tasks.normal", 0), ("tasks.normal", 1)}
    assert verdict_on(history).good
    history.started.append(started(1, "tasks.normal/1/5"))
    assert verdict_on(history).rerun_without_crash == [ID]


def test_a_missing_or_broken_file_is_named() -> None:
    assert verdict_on(healthy(), sha256=None).bad_files == [ID]
    assert verdict_on(healthy(), sha256="cc").bad_files == [ID]


def test_an_end_without_a_beginning_is_named() -> None:
    story = healthy()
    story.received = []
    assert verdict_on(story).unreceived == [ID]


def replayed(cause: Cause) -> TaskHistory:
    story = healthy()
    story.started.append(started(2, "tasks.high/0/4"))
    story.failures[1] = Failure(1, cause, node="node-1", started_ms=10_000, ended_ms=20_000)
    return story


def test_a_replay_needs_a_fault_that_touched_its_node_at_its_time() -> None:
    story = replayed(Cause.NODE_LOSS)
    assert verdict_on(story).rerun_without_crash == [ID]
    assert verdict_on(story, InjectedFault("kill_node", "node-2", 15_000, 16_000)).rerun_without_crash == [ID]
    assert verdict_on(story, InjectedFault("kill_node", "node-1", 90_000, 91_000)).rerun_without_crash == [ID]
    assert verdict_on(story, InjectedFault("kill_node", "node-1", 15_000, 16_000)).good
    assert verdict_on(story, InjectedFault("kill_broker", "", 15_000, 16_000)).good


def test_an_error_and_a_task_that_kills_itself_need_no_fault() -> None:
    assert verdict_on(replayed(Cause.ERROR)).good
    assert verdict_on(replayed(Cause.PROCESS_DEATH), suicidal=True).good


def dead_of(reason: Reason) -> TaskHistory:
    ended = Event("tasks.dead", ID, 2000, reason=reason)
    return TaskHistory(1, [Event("lifecycle.received", ID, 1000)], [], [], [ended])


@pytest.mark.parametrize("reason", [r for r in Reason if r is not Reason.CRASHED])
def test_a_task_that_died_for_another_reason_than_a_crash_died_without_need(reason: Reason) -> None:
    verdict = verdict_on(dead_of(reason))
    assert verdict.died == [ID]
    assert not verdict.good
    assert "dead without need 1" in str(verdict)


def test_a_task_that_must_die_is_no_violation() -> None:
    evidence = Evidence()
    evidence.histories[ID] = dead_of(Reason.FAILED)
    assert judge([ID], evidence, lambda _: None, poison=frozenset({ID})).good


def test_faults_may_crash_a_few_tasks_to_death_and_not_most_of_them() -> None:
    def verdict_of(crashed: int, whole: int) -> Verdict:
        evidence, ids = Evidence(), [f"{n:08x}-0000-4000-8000-000000000000" for n in range(crashed + whole)]
        for number, task_id in enumerate(ids):
            story = dead_of(Reason.CRASHED) if number < crashed else healthy()
            evidence.histories[task_id] = story
        return judge(ids, evidence, lambda _: "aa")

    assert verdict_of(3, 2).good
    assert verdict_of(50, 950).good
    assert len(verdict_of(51, 949).died) == 51
    assert not verdict_of(51, 949).good
