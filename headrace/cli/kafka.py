"""Kafka for commands that people type: an answer within seconds, or one sentence that says what to change.

Used by `topics`, `produce` and `why`. Unreachable when no broker answers; HeadraceError for what Kafka refuses.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from headrace.cli.options import with_local_kafka
from headrace.errors import HeadraceError, Unreachable
from headrace.kafka.client import Kafka
from headrace.settings import Settings

_ANSWER_S = 5.0
_CLIENT_LOG = "headrace.process.throttled_log"  # what clients of Kafka complain about
_AWAY = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
    }
)


class _FirstComplaint(logging.Handler):
    """Keeps the first complaint instead of printing it: those after it follow from it."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage().removeprefix("Kafka: ")


@contextmanager
def reached_kafka(settings: Settings, client_id: str) -> Iterator[Kafka]:
    """Kafka, after it has answered once; errors inside of the block are told in words too."""
    log, complaint = logging.getLogger(_CLIENT_LOG), _FirstComplaint()
    propagate, log.propagate = log.propagate, False
    log.addHandler(complaint)
    settings = with_local_kafka(settings)
    try:
        kafka = Kafka(settings, client_id)
        admin = kafka.admin()  # a client that is dropped gives up its requests
        _wait_for_answer(admin)
        yield kafka
    except (KafkaException, TimeoutError) as e:
        error = e.args[0] if e.args and isinstance(e.args[0], KafkaError) else None
        if error is not None and error.code() not in _AWAY:
            raise HeadraceError(f"Kafka at {settings.kafka} refuses: {error.str()}") from None
        why = complaint.text or (error.str() if error is not None else "no answer")
        raise Unreachable(
            f"Kafka at {settings.kafka} does not answer ({why}): is it up? Start it with `headrace up`, or give its "
            "address in HEADRACE_KAFKA, and its options in HEADRACE_KAFKA_SECURITY"
        ) from None
    finally:
        log.removeHandler(complaint)
        log.propagate = propagate


def _wait_for_answer(admin: AdminClient) -> None:
    try:
        admin.describe_cluster(request_timeout=_ANSWER_S).result(_ANSWER_S + 1)
    finally:
        admin.poll(0)  # its complaints come in this call
