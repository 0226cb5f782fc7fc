"""Where a consumer group goes on in its partitions, and whether the log still holds that place: the rule of all groups.

A group never passes over records that it has not read: its role stops, and says what is lost and what to do. The
consumers of storekeeper and receiver call `start_offsets` for each assignment; the intake, which must also never begin
anew, and the statistics, whose place is Spark's checkpoint, use `why_lost`. Retryable when Kafka does not answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

from headrace.contract.records import Place
from headrace.errors import UsageError
from headrace.kafka.client import Kafka
from headrace.kafka.reading import committed_offsets, first_offsets, high_watermarks

NO_OFFSET = -1


@dataclass(frozen=True, slots=True)
class GroupWords:
    """What a message says of a group: its name, the processes to stop, and what a gap in its reading costs."""

    group: str  # without the installation's prefix
    roles: str
    cost: str


def start_offsets(
    kafka: Kafka, admin: AdminClient, consumer: Consumer, words: GroupWords, places: Sequence[Place]
) -> dict[Place, int]:
    """Where the group goes on in each place: its committed offset, or 0 in a place that it has never read.

    UsageError when the log does not hold that offset, or when the group has none and the log has lost its beginning.
    Retryable.
    """
    # In this order: others may commit and trim meanwhile, and the log never begins behind a committed offset.
    first = first_offsets(kafka, admin, places)
    committed = {place: max(NO_OFFSET, at) for place, at in committed_offsets(kafka, consumer, places).items()}
    ends = high_watermarks(kafka, admin, places)
    lost = {p: why for p, at in committed.items() if (why := why_lost(at, first[p], ends[p])) is not None}
    if lost:
        raise UsageError(_message(kafka, words, lost))
    return {place: max(0, at) for place, at in committed.items()}


def why_lost(committed: int, first: int, end: int) -> str | None:
    """Why a group cannot go on in a place; None when it can. `committed` may be NO_OFFSET; `first`: the log begins."""
    if committed == NO_OFFSET:
        return (
            f"it has no offset, and the log begins at {first}: Kafka has dropped the group's offsets" if first else None
        )
    if committed < first:
        return f"the offsets {committed} to {first - 1} were deleted before it has read them"
    if committed > end:
        return f"its offset {committed} lies behind the log's end {end}: the topic was made anew, or has lost records"
    return None


def describe_lost(kafka: Kafka, lost: Mapping[Place, str]) -> str:
    """The places with the reasons of `why_lost`, in words."""
    return "; ".join(f"{kafka.topic(topic)}, partition {p}: {why}" for (topic, p), why in sorted(lost.items()))


def _message(kafka: Kafka, words: GroupWords, lost: Mapping[Place, str]) -> str:
    topics = " ".join(f"--topic {kafka.topic(topic)}:{p}" for topic, p in sorted(lost))
    group = kafka.group(words.group)
    return (
        f"group {group} has lost its place in the log. {describe_lost(kafka, lost)}. {words.cost}. To go on with what "
        f"the log still holds, stop all {words.roles} and set the offsets: kafka-consumer-groups.sh --group {group} "
        f"{topics} --reset-offsets --to-earliest --execute"
    )
