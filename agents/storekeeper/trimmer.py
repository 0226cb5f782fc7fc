"""Trims `results`: deletes outcomes that the storekeepers have settled. Others never expire, however long it takes.

A thread of the storekeeper, for the partitions that this process owns. Deleted is what lies before the group's
committed offset, which no open result in chunks passes, and is older than `keep_s`: for `headrace why`. Nothing else
reads it: the audit begins at the same offset. Any process may trim any partition at any time; it only knows less.
"""

import logging
import threading
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaException

from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.groups import STOREKEEPER_GROUP
from headrace.kafka.reading import committed_offsets, error_text, first_offsets
from headrace.kafka.trimming import delete_records, young_offsets
from headrace.process.throttled_log import log_throttled

log = logging.getLogger(__name__)

EVERY_S = 60.0


class ResultsTrimmer:
    """`start` it, then `close` it."""

    def __init__(
        self,
        kafka: Kafka,
        keep_s: float,
        own_places: Callable[[], Iterable[Place]],
        on_trimmed: Callable[[int], object] = lambda _: None,
        every_s: float = EVERY_S,
    ) -> None:
        """`on_trimmed` is called with the number of deleted offsets. Looks every `every_s` seconds."""
        self._kafka, self._keep_s, self._own_places = kafka, keep_s, own_places
        self._on_trimmed, self._every_s = on_trimmed, every_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="results-trimmer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(15)

    def trim(self) -> None:
        """Trims this process's partitions once; Retryable or KafkaException."""
        places = list(self._own_places())
        reader = self._kafka.group_reader(STOREKEEPER_GROUP)
        committed = committed_offsets(self._kafka, reader, places)
        young = young_offsets(self._kafka, reader, places, self._keep_s)
        first = first_offsets(self._kafka, self._kafka.admin(), places)
        before = {place: min(at, young.get(place, at)) for place, at in committed.items()}
        due = {place: at for place, at in before.items() if at > first[place]}
        if due:
            delete_records(self._kafka, self._kafka.admin(), due)
            self._on_trimmed(sum(at - first[place] for place, at in due.items()))

    def _run(self) -> None:
        while not self._closing.wait(self._every_s):
            try:
                self.trim()
            except (Retryable, KafkaException) as e:
                words = error_text(e) if isinstance(e, KafkaException) else str(e)
                log_throttled("results trimmer", "The results topic is trimmed later: %s", words)
