"""What follows a failed attempt: the budgets of errors and deaths, and the waits."""

import pytest

from agents.completion.retry_policy import TOTAL_ATTEMPTS, GiveUp, Retry, after_failure
from headrace.contract.ledger import Failure
from headrace.contract.records import Source
from headrace.contract.states import Cause, Reason
from headrace.contract.task import Task


def failed(cause: Cause, attempt: int = 1) -> Failure:
    return Failure(attempt, cause, node="node-1", started_ms=1, ended_ms=2)


def task(*causes: Cause) -> Task:
    ledger = tuple(failed(c, n) for n, c in enumerate(causes, 1))
    return Task(
        "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11",
        b"{}",
        attempt=len(causes) + 1,
        source=Source("tasks.normal", 0, 0),
        submitted_ms=0,
        ledger=ledger,
    )


@pytest.mark.parametrize(
    ("before", "cause", "reason"),
    [
        ((Cause.ERROR, Cause.ERROR), Cause.ERROR, Reason.FAILED),
        ((Cause.ERROR, Cause.TIMEOUT), Cause.TIMEOUT, Reason.TIMEOUT),
        ((Cause.PROCESS_DEATH, Cause.OUT_OF_MEMORY), Cause.PROCESS_DEATH, Reason.CRASHED),
        ((Cause.ERROR, Cause.PROCESS_DEATH, Cause.ERROR, Cause.DRAIN), Cause.ERROR, Reason.FAILED),
    ],
)
def test_a_budget_used_up_ends_the_task(before: tuple[Cause, ...], cause: Cause, reason: Reason) -> None:
    follows = after_failure(task(*before), failed(cause, len(before) + 1), 3)
    assert isinstance(follows, GiveUp)
    assert follows.reason is reason


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        ((), Cause.ERROR),
        ((Cause.ERROR, Cause.ERROR), Cause.PROCESS_DEATH),
        ((Cause.PROCESS_DEATH, Cause.PROCESS_DEATH), Cause.ERROR),
        ((Cause.DRAIN,) * 10, Cause.NODE_LOSS),
        ((Cause.NODE_LOSS,) * 10 + (Cause.ERROR,), Cause.ERROR),
    ],
)
def test_errors_and_deaths_have_separate_budgets_and_other_causes_are_not_charged(
    before: tuple[Cause, ...], cause: Cause
) -> None:
    assert isinstance(after_failure(task(*before), failed(cause, len(before) + 1), 3), Retry)


def test_a_cap_on_all_attempts_ends_tasks_with_uncharged_failures() -> None:
    losses = (Cause.NODE_LOSS,) * (TOTAL_ATTEMPTS - 1)
    follows = after_failure(task(*losses), failed(Cause.NODE_LOSS, TOTAL_ATTEMPTS), 3)
    assert isinstance(follows, GiveUp)
    assert follows.reason is Reason.CRASHED


def test_an_invalid_payload_is_not_tried_again() -> None:
    follows = after_failure(task(), failed(Cause.ERROR), 3, invalid=True)
    assert isinstance(follows, GiveUp)
    assert follows.reason is Reason.INVALID


def test_a_result_that_cannot_be_stored_is_not_computed_again() -> None:
    follows = after_failure(task(), failed(Cause.ERROR), 3, permanent=True)
    assert isinstance(follows, GiveUp)
    assert follows.reason is Reason.FAILED


@pytest.mark.parametrize("cause", [Cause.PROCESS_DEATH, Cause.NODE_LOSS])
def test_the_first_replay_goes_at_once_and_later_ones_wait_longer_and_longer(cause: Cause) -> None:
    waits = []
    for n in range(12):
        follows = after_failure(task(*[cause] * n), failed(cause, n + 1), 100)
        assert isinstance(follows, Retry)
        waits.append(follows.wait_s)
    assert waits[:4] == [0.0, 1.0, 2.0, 4.0]
    assert waits[-1] == 60.0
