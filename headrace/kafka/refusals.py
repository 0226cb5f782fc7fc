"""What Kafka refuses to take from a sender, in words for people: which topic, why, and what they can change.

Fed by `headrace.kafka.sender`, asked by the roles' readiness. An outage is no refusal: it ends by itself. Refusals end
when somebody gives a right back, creates a topic or changes its settings.
"""

import time
from collections.abc import Callable

from confluent_kafka import KafkaError

SHOWN_S = 10.0  # since the last refusal; what is refused is sent again more often than that

_RIGHTS = "give the role its right to write there; `headrace topics acls` prints all rights"
_MISSING = "create it with `headrace topics apply`"
_SIZE = "raise the topic's max.message.bytes; `headrace topics diff` shows what it should be"
_RULES = "take back the broker's or the topic's setting that forbids it"

# Errors of every record of a topic.
_OF_TOPICS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: _RIGHTS,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: _RIGHTS,
    KafkaError.UNKNOWN_TOPIC_OR_PART: _MISSING,
    KafkaError._UNKNOWN_TOPIC: _MISSING,
    KafkaError._UNKNOWN_PARTITION: _MISSING,
}
# Errors of single records.
_OF_RECORDS = {
    KafkaError.MSG_SIZE_TOO_LARGE: _SIZE,
    KafkaError.RECORD_LIST_TOO_LARGE: _SIZE,
    KafkaError.INVALID_RECORD: _RULES,
    KafkaError.POLICY_VIOLATION: _RULES,
    KafkaError.INVALID_TIMESTAMP: "put the clocks of this machine and of the brokers right",
}


def is_refusal(error: KafkaError) -> bool:
    """Whether the record would be refused again until somebody changes something."""
    return error.code() in _OF_TOPICS or error.code() in _OF_RECORDS


def in_words(topic: str, error: KafkaError) -> str:
    """Why Kafka refuses a record for `topic`, and what to change."""
    advice = _OF_TOPICS.get(error.code()) or _OF_RECORDS.get(error.code(), "")
    return f"Kafka refuses a record for {topic}: {error.str()}: {advice}"


class Refusals:
    """The last refusal of each topic. Safe from any thread."""

    def __init__(self, of_records: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """`of_records`: whether refusals of single records count too. In a gateway they are the client's affair."""
        self._of_records, self._clock = of_records, clock
        self._last: dict[str, tuple[float, str]] = {}

    def note(self, topic: str, error: KafkaError) -> None:
        """Takes in a refusal, as of now."""
        if self._of_records or error.code() in _OF_TOPICS:
            self._last[topic] = self._clock(), in_words(topic, error)

    def check(self) -> str | None:
        """For the role's health: what was refused within `SHOWN_S`."""
        since = self._clock() - SHOWN_S
        recent = [words for at, words in list(self._last.values()) if at > since]
        return "; ".join(recent) or None
