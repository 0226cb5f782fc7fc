"""Whether Kafka still holds the place of the statistics' checkpoint: the rule of all groups, for Spark's offsets.

`job` asks before it starts the query, and when the query has failed for that reason. Spark itself stops at such a gap
too (`failOnDataLoss`), but names one partition at most, and tells people to turn that option off.
"""

from pathlib import Path

from confluent_kafka import KafkaException

from headrace.contract.records import Place
from headrace.errors import Retryable, UsageError
from headrace.kafka.client import Kafka
from headrace.kafka.lost_offsets import NO_OFFSET, describe_lost, why_lost
from headrace.kafka.metadata import partitions_of
from headrace.kafka.reading import error_text, first_offsets, high_watermarks

from .checkpoint import Offsets, next_offsets
from .source import TOPICS

_ANSWER_S = 10.0


def check_place(kafka: Kafka, checkpoint: Path) -> None:
    """UsageError when Kafka does not hold what comes next after the checkpoint. Retryable when Kafka does not answer.

    Without a checkpoint nothing was read. One that cannot be read ends the query, which says why.
    """
    try:
        offsets = next_offsets(checkpoint)
    except (OSError, ValueError, IndexError):
        return
    if offsets is None:
        return
    try:
        lost = _lost_places(kafka, offsets)
    except KafkaException as e:
        words = error_text(e)
        raise Retryable(f"whether Kafka holds the offsets of the checkpoint is not known: {words}") from None
    if lost:
        raise UsageError(
            f"the statistics have lost their place in the log. {describe_lost(kafka, lost)}. The events of those "
            "offsets are not counted and never will be. To go on with what the log still holds, stop this role and "
            f"remove the folder {checkpoint}: the statistics then count the log from its beginning, and keep what the "
            "database already has"
        )


def _lost_places(kafka: Kafka, offsets: Offsets) -> dict[Place, str]:
    known = {(kafka.unprefixed(t), int(p)): at for t, partitions in offsets.items() for p, at in partitions.items()}
    names = {kafka.topic(topic): topic for topic in TOPICS}
    found = partitions_of(kafka.admin(), names, _ANSWER_S)
    places: list[Place] = [(names[name], p) for name, partitions in found.items() for p in partitions]
    first = first_offsets(kafka, kafka.admin(), places)
    ends = high_watermarks(kafka, kafka.admin(), places)
    lost = {p: why for p in places if (why := why_lost(known.get(p, NO_OFFSET), first[p], ends[p])) is not None}
    lost |= {p: "it has been read, and does not exist any more" for p in known if p not in first}
    return lost
