"""Takeovers: a new generation of the group makes them begin again; what is whole counts only for its generation."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from agents.storekeeper.index_catchup import IndexCatchup
from agents.storekeeper.retry_until import RetryUntilStopped
from agents.storekeeper.takeovers import Takeovers
from headrace.process.health import Watchdog


class Steps(IndexCatchup):
    """A catch-up that takes a partition whenever the test says so, or fails."""

    def __init__(self) -> None:
        self.watchdog = Watchdog("the test", stale_s=3600)
        self.watchdog.beat()
        self.asked: queue.Queue[set[int]] = queue.Queue()
        self.orders: queue.Queue[int | Exception] = queue.Queue()

    def progress(self) -> str | None:
        return "reads on"

    def catch_up(
        self,
        partitions: Iterable[int],
        on_whole: Callable[[int], None] = lambda _: None,
        before_each: Callable[[], None] = lambda: None,
    ) -> int:
        left = set(partitions)
        self.asked.put(set(left))
        while left:
            order = self.orders.get(timeout=60)
            before_each()
            if isinstance(order, Exception):
                raise order
            on_whole(order)
            left.discard(order)
        return 0


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def failures() -> queue.Queue[Exception]:
    return queue.Queue()


@pytest.fixture
def takeovers(steps: Steps, failures: queue.Queue[Exception]) -> Iterator[Takeovers]:
    found = Takeovers(steps, RetryUntilStopped(), failures.put)
    found.start()
    yield found
    steps.orders.put(0)
    found.close()


def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("not within 30 s")


def test_each_partition_is_whole_as_soon_as_it_is_taken_over(takeovers: Takeovers, steps: Steps) -> None:
    assert takeovers.check() == "its group has not given it its partitions yet"
    takeovers.begin(3, [0, 1])
    assert steps.asked.get(timeout=60) == {0, 1}
    assert takeovers.check() == "takes over results/0, results/1: reads on"
    steps.orders.put(1)
    until(lambda: takeovers.whole(3) == {1})
    until(lambda: takeovers.check() == "takes over results/0: reads on")
    steps.orders.put(0)
    until(lambda: takeovers.whole(3) == {0, 1})
    assert takeovers.check() is None
    assert takeovers.whole(2) == takeovers.whole(4) == takeovers.whole(None) == frozenset()


def test_after_an_error_only_what_is_left_is_asked_for_again(takeovers: Takeovers, steps: Steps) -> None:
    takeovers.begin(1, [0, 1])
    steps.orders.put(1)
    steps.orders.put(OSError(28, "No space left on device"))
    assert steps.asked.get(timeout=60) == {0, 1}
    assert steps.asked.get(timeout=60) == {0}
    assert takeovers.check() == "takes over results/0: Kafka: No space left on device"
    steps.orders.put(0)
    until(lambda: takeovers.whole(1) == {0, 1})


def test_a_new_generation_gives_the_takeover_up_and_begins_its_own(takeovers: Takeovers, steps: Steps) -> None:
    takeovers.begin(1, [0, 1])
    assert steps.asked.get(timeout=60) == {0, 1}
    takeovers.begin(-1, [])
    assert takeovers.check() == "its group has not given it its partitions yet"
    takeovers.begin(2, [0])
    steps.orders.put(0)  # it goes on, and learns that its generation is over
    assert steps.asked.get(timeout=60) == {0}
    assert takeovers.whole(2) == frozenset()
    steps.orders.put(0)
    until(lambda: takeovers.whole(2) == {0})


def test_an_error_that_cannot_be_retried_is_told(
    takeovers: Takeovers, steps: Steps, failures: queue.Queue[Exception]
) -> None:
    takeovers.begin(1, [0])
    steps.orders.put(ValueError("broken"))
    assert str(failures.get(timeout=60)) == "broken"
