"""When partitions that a group has given make a role not ready, and what it says."""

import pytest

from headrace.process.health import STALE_S
from headrace.process.taking_over import GRACE_S, TakingOver


class Role:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.progress: str | None = "reads the log: 43 %"
        self.taking_over = TakingOver(lambda: self.progress, clock=lambda: self.now_s)

    def after(self, seconds: float) -> str | None:
        self.now_s += seconds
        return self.taking_over.check()


@pytest.fixture
def role() -> Role:
    return Role()


@pytest.fixture
def whole(role: Role) -> Role:
    """A role that has been ready."""
    role.taking_over.begin(1, [("results", 3)])
    role.taking_over.end(1)
    return role


def test_until_its_first_partitions_are_known_a_role_says_what_it_takes_over(role: Role) -> None:
    assert role.after(0) == "its group has not given it its partitions yet"
    role.taking_over.begin(1, [("results", 5), ("results", 3)])
    assert role.after(0) == "takes over results/3, results/5: reads the log: 43 %"
    role.progress = None
    assert role.after(0) == "takes over results/3, results/5: has read the log, and takes it in"
    role.taking_over.end(1)
    assert role.after(1000) is None


def test_many_partitions_are_counted(role: Role) -> None:
    role.taking_over.begin(1, [(topic, p) for topic in ("tasks.normal", "tasks.high") for p in range(16)])
    assert str(role.after(0)).startswith("takes over 32 partitions of tasks.high and tasks.normal: ")


def test_without_partitions_there_is_nothing_to_take_over(role: Role) -> None:
    role.taking_over.begin(1, [])
    assert role.after(1000) is None


def test_a_ready_role_gives_up_its_readiness_only_for_a_long_takeover(whole: Role) -> None:
    whole.taking_over.leave()
    assert whole.after(1) is None
    whole.taking_over.begin(2, [("results", 3)])
    assert whole.after(GRACE_S - 2) is None
    assert whole.after(2) == "takes over results/3: reads the log: 43 %"
    whole.taking_over.end(2)
    assert whole.after(0) is None


def test_a_ready_role_that_stays_without_an_assignment_says_so_in_time(whole: Role) -> None:
    whole.taking_over.leave()
    assert whole.after(STALE_S) is None
    assert whole.after(1) == "its group has not given it its partitions yet"


def test_takeovers_that_rebalances_cut_short_count_as_one(whole: Role) -> None:
    for generation in range(2, 8):
        whole.taking_over.leave()
        whole.taking_over.begin(generation, [("results", 3)])
        whole.taking_over.end(generation - 1)  # of a batch that the rebalance has overtaken
        last = whole.after(GRACE_S / 5)
    assert last is not None
