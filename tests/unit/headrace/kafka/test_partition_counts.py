"""Where an id can lie after the queue has grown."""

import uuid

import pytest

from headrace.kafka.partition_counts import QUEUE_TOPICS, PartitionCounts
from headrace.kafka.partitioner import partition_of
from headrace.kafka.topics import load_topics


def counts(home: int, queue: int) -> PartitionCounts:
    return PartitionCounts(home, dict.fromkeys(QUEUE_TOPICS, queue))


def test_the_topics_that_grow_are_those_of_the_file() -> None:
    assert {t.name for t in load_topics().values() if t.grows} == set(QUEUE_TOPICS)


@pytest.mark.parametrize(
    ("home", "queue", "partition", "parents"),
    [
        (4, 4, 3, []),  # has never grown
        (4, 8, 3, []),  # was there before
        (4, 8, 7, [3]),
        (4, 16, 13, [1, 5]),  # 4, perhaps 8, 16
        (4, 16, 5, [1]),
        (4, 12, 9, [1]),
        (16, 96, 90, [10, 26, 42]),  # 16, perhaps 32 or 48, 96
        (16, 20, 17, []),  # grown by hand: an id may move between any two, and nobody looks
        (16, 4, 3, []),
    ],
)
def test_a_partition_looks_only_into_older_ones(home: int, queue: int, partition: int, parents: list[int]) -> None:
    places = counts(home, queue).parents(("tasks.normal", partition))
    assert places == [("tasks.normal", p) for p in parents]
    assert all(p < partition for p in parents)  # never both ways, or each would drop its record for the other's


def test_every_earlier_place_of_an_id_is_a_parent_of_its_present_one() -> None:
    found = counts(4, 48)
    for key in (str(uuid.uuid4()) for _ in range(500)):
        now = ("tasks.high", partition_of(key.encode(), 48))
        places = found.places_of(key, ["tasks.high"])
        assert {("tasks.high", partition_of(key.encode(), n)) for n in (4, 8, 12, 16, 24, 48)} == places
        assert places <= {now, *found.parents(now)}


def test_an_id_keeps_its_place_outside_the_queue() -> None:
    found = counts(4, 8)
    for key in (str(uuid.uuid4()) for _ in range(100)):
        [(_, home)] = found.places_of(key, ["results"])
        assert home == partition_of(key.encode(), 4) == found.home_of(partition_of(key.encode(), 8))


def test_all_places_are_as_many_as_each_topic_has() -> None:
    places = PartitionCounts(2, {"tasks.normal": 4}).all_places(["tasks.normal", "results"])
    assert places == {("tasks.normal", p) for p in range(4)} | {("results", 0), ("results", 1)}
