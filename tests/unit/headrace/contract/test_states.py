"""The states of a task and the moves between them; reasons of a later version."""

import pytest

from headrace.contract.states import MOVES, TERMINAL, Reason, Status


@pytest.mark.parametrize("before", Status)
@pytest.mark.parametrize("after", Status)
def test_every_move_between_states_is_allowed_or_forbidden_as_the_readme_draws_it(
    before: Status, after: Status
) -> None:
    drawn = {("queued", "running"), ("running", "running")} | {
        (s, t) for s in ("queued", "running") for t in ("completed", "failed", "cancelled")
    }
    assert (after in MOVES[before]) is ((before, after) in drawn)
    assert before.terminal is (before in TERMINAL) is (not MOVES[before])


def test_a_reason_of_a_later_version_is_kept_and_a_forged_one_refused() -> None:
    assert Reason("over-quota") == "over-quota"
    assert Reason("over-quota") not in set(Reason)
    for forged in ("", "Over Quota", "x" * 41, 7):
        with pytest.raises(ValueError, match="is not a valid Reason"):
            Reason(forged)
