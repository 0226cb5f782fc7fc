"""When a reader of the log counts as whole, what it says until then, and when it counts as late afterwards."""

import pytest

from headrace.process.catching_up import IN_TIME_S, LATE_S, CatchingUp

A, B = ("a", 0), ("a", 1)


class Reader:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.positions: dict[tuple[str, int], int] = {}
        self.catching_up = CatchingUp(lambda: self.positions, clock=lambda: self.now_s)

    def probe(self, after_s: float, **at: int) -> str | None:
        """The reason after a probe; `end` and `read` are of both places."""
        self.now_s += after_s
        self.positions = {A: at["read"], B: at["read"]}
        self.catching_up.probed({A: at["end"], B: at["end"]})
        return self.catching_up.check()


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_it_is_whole_when_each_place_has_reached_the_end_that_it_had_at_the_start(reader: Reader) -> None:
    assert reader.catching_up.check() == "has not learnt from Kafka yet where the log ends"
    reader.catching_up.begin({A: 100, B: 0}, {A: 300, B: 200})
    reader.now_s += 10
    reader.positions = {A: 300}
    assert reader.catching_up.check() == "reads the log: 50 %, 200 records to go, about 11 s left"
    reader.positions = {A: 500, B: 199}  # by place, not in sum
    assert reader.catching_up.check() == "reads the log: 99 %, 1 records to go, about 1 s left"
    reader.positions = {A: 500, B: 200}
    assert reader.catching_up.check() is None


def test_a_reader_that_is_whole_stays_so_when_it_follows_again_unless_it_lost_its_place(reader: Reader) -> None:
    reader.catching_up.begin({A: 0}, {A: 0})
    assert reader.catching_up.whole()
    reader.catching_up.begin({A: 0}, {A: 50})
    assert reader.catching_up.whole(), "it would flap when partitions are added"
    reader.catching_up.begin_again()
    assert not reader.catching_up.whole()
    reader.catching_up.begin({A: 0}, {A: 50})
    assert reader.catching_up.check() == "reads the log: 0 %, 50 records to go"


def test_it_becomes_late_by_time_and_is_ready_again_only_when_it_is_well_in_time(reader: Reader) -> None:
    reader.catching_up.begin({}, {})
    end = 0
    for _ in range(100):  # always 20 s behind
        end += 10
        assert reader.probe(2.0, end=end, read=end - 100) is None
    read = end - 100
    for _ in range(10):  # with the 20 s from before, 40 s
        end += 1000
        assert reader.probe(2.0, end=end, read=read) is None
    for _ in range(int(LATE_S / 2)):
        reader.probe(2.0, end=end, read=read)
    assert "s behind the log" in str(reader.probe(2.0, end=end, read=read))
    assert "s behind the log" in str(reader.probe(2.0, end=end + 1000, read=end)), "what it reached was old"
    reader.now_s += 0.1
    assert reader.probe(IN_TIME_S / 2, end=end + 1000, read=end + 1000) is None


def test_an_outage_of_kafka_is_no_lateness(reader: Reader) -> None:
    reader.catching_up.begin({}, {})
    assert reader.probe(2.0, end=10, read=0) is None
    assert reader.probe(10 * LATE_S, end=10, read=0) is None
