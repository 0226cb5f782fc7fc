"""Gives a living installation more partitions, and with them work for more nodes: `headrace topics grow`.

Only the queue grows: `tasks.running`, `tasks.high` and `tasks.normal`. How a task ends is decided in the id's partition
of `results`, which never changes (docs/design/0038). UsageError when a growth cannot be made or the cluster refuses it,
KafkaException when it does not answer. A growth that was cut short is finished by the same call.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from confluent_kafka.admin import AdminClient

from headrace.errors import UsageError
from headrace.kafka.metadata import partitions_of
from headrace.kafka.partition_counts import JOURNAL, TASK_TOPICS
from headrace.kafka.topics import add_partitions, load_topics

_ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class Growth:
    """One topic of the queue that has fewer partitions than it shall have."""

    topic: str
    have: int
    wanted: int


def plan_growth(admin: AdminClient, prefix: str, wanted: int) -> list[Growth]:
    """What `grow_topics` would do, in its order; empty when all topics of the queue have `wanted` partitions."""
    counts = _counts(admin, prefix)
    _check(counts, wanted)
    return [Growth(t, counts[t], wanted) for t in (JOURNAL, *TASK_TOPICS) if counts[t] < wanted]


def grow_topics(
    admin: AdminClient, prefix: str, wanted: int, on_grown: Callable[[Growth], None] = lambda _: None
) -> list[Growth]:
    """Adds partitions until each topic of the queue has `wanted`; returns what it did, and calls `on_grown` at each.

    The journal is the first, and a topic follows when the new partitions of the one before have leaders: no task comes
    into a partition whose claims have no place yet.
    """
    plan = plan_growth(admin, prefix, wanted)
    # The two task topics in one request: Kafka then makes both known at once, and nodes share them out once.
    for topics in ((JOURNAL,), TASK_TOPICS):
        steps = [g for g in plan if g.topic in topics]
        add_partitions(admin, {prefix + g.topic: g.wanted for g in steps})
        for step in steps:
            on_grown(step)
    return plan


def _counts(admin: AdminClient, prefix: str) -> dict[str, int]:
    keyed = [t.name for t in load_topics().values() if t.is_keyed]
    found = partitions_of(admin, [prefix + name for name in keyed], _ANSWER_S)
    if missing := [prefix + name for name in keyed if prefix + name not in found]:
        raise UsageError(f"the topic {missing[0]} is missing: run `headrace topics apply` first")
    return {name: len(found[prefix + name]) for name in keyed}


def _check(counts: Mapping[str, int], wanted: int) -> None:
    """UsageError when the growth would lose the way from an id to its places, or is none."""
    homes = {count for name, count in counts.items() if not load_topics()[name].grows}
    if len(homes) > 1:
        raise UsageError(
            "the topics outside the queue have different numbers of partitions: see `headrace topics diff`"
        )
    present = max(counts[t] for t in (JOURNAL, *TASK_TOPICS))
    if wanted < present:
        raise UsageError(f"--partitions {wanted}: there are {present} partitions, and topics never shrink")
    if wanted % present:
        above = present * (wanted // present + 1)
        raise UsageError(
            f"--partitions {wanted}: give a multiple of the {present} partitions that there are, such as {above}. Then "
            "an id moves only into a new partition, whose owner knows where to look for its repeats"
        )
