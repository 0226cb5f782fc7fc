"""Warms up the embedded broker before `ready`, so that the first users do not meet a JVM without compiled code.

`up` calls it while the roles start. It writes to a topic of its own, which it deletes. A failure only costs speed.
"""

import contextlib
import time

from confluent_kafka import OFFSET_END, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

ROUND_TRIPS = 1000  # measured: p50 of the first users 2.4 to 2.9 ms without, 0.8 to 0.9 with; 3,000 give 0.7
TOPIC = "headrace-warm-up"  # also the name of the group
TIMEOUT_S = 3.0  # delays `ready` by this at most
_CLEAN_UP_S = 10.0


def warm_up(bootstrap: str, round_trips: int = ROUND_TRIPS, timeout_s: float = TIMEOUT_S) -> int:
    """Sends small records, fetches each and commits some offsets; returns how many made the round trip."""
    deadline = time.monotonic() + timeout_s
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    done = 0
    with contextlib.suppress(KafkaException, TimeoutError):
        # a topic left by an interrupted start will do
        admin.create_topics([NewTopic(TOPIC, 1, 1)])[TOPIC].exception(timeout_s)
        done = _round_trips(bootstrap, round_trips, deadline)
    with contextlib.suppress(KafkaException, TimeoutError):
        admin.delete_consumer_groups([TOPIC])[TOPIC].exception(_CLEAN_UP_S)
        admin.delete_topics([TOPIC])[TOPIC].exception(_CLEAN_UP_S)
    return done


def _round_trips(bootstrap: str, count: int, deadline: float) -> int:
    base = {"bootstrap.servers": bootstrap, "log_level": 0}
    producer = Producer({**base, "acks": "all", "enable.idempotence": True, "linger.ms": 0})
    consumer = Consumer({**base, "group.id": TOPIC, "enable.auto.commit": False, "fetch.wait.max.ms": 10})
    consumer.assign([TopicPartition(TOPIC, 0, OFFSET_END)])
    done = 0
    try:
        while done < count and time.monotonic() < deadline:
            producer.produce(TOPIC, b"x" * 200, key=b"key", headers={"attempt": b"1"})
            producer.flush(1)
            message = consumer.poll(0.2)
            if message is not None and not message.error() and done % 4 == 0:
                consumer.commit(message=message, asynchronous=True)
            done += 1
    finally:
        consumer.close()
    return done
