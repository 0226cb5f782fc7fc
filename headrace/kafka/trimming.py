"""Deletes the beginning of partitions, below offsets that the caller has found to be needed by nobody.

Used by the trimmers of the task topics (worker) and of `results` (storekeeper). Retryable or KafkaException when Kafka
does not answer; a deletion that was cut short is made again.
"""

import logging
import time
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.reading import ANSWER_S, offsets_at

log = logging.getLogger(__name__)


def young_offsets(kafka: Kafka, consumer: Consumer, places: Iterable[Place], keep_s: float) -> dict[Place, int]:
    """Where the records younger than `keep_s` seconds begin, for each place that has some; KafkaException."""
    since_ms = int((time.time() - keep_s) * 1000)
    return offsets_at(kafka, consumer, dict.fromkeys(places, since_ms))


def delete_records(kafka: Kafka, admin: AdminClient, before: Mapping[Place, int]) -> None:
    """Deletes the records before these offsets; KafkaException or Retryable."""
    asked = [TopicPartition(kafka.topic(t), p, at) for (t, p), at in before.items()]
    for at, done in admin.delete_records(asked, request_timeout=ANSWER_S).items():
        try:
            done.result(2 * ANSWER_S)
        except TimeoutError:
            raise Retryable(f"Kafka does not say whether {at.topic}/{at.partition} is trimmed") from None
        log.info("%s/%d is trimmed before offset %d", at.topic, at.partition, at.offset)
