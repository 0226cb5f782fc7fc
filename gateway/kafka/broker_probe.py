"""Whether Kafka answers, and where its partitions end: asked every two seconds, and by handlers that must know now.

While Kafka is known to be away, submissions are refused at once instead of after the sender's time limit. The status
view's lag is told to health and metrics from here.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # exported at run time

from headrace.errors import Retryable
from headrace.kafka.client import Kafka, log_throttled

log = logging.getLogger(__name__)

_ASK_EVERY_S = 2.0
_TIMEOUT_S = 2.0
_LEADER_CHANGED = {
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
}

_LATEST, _EARLIEST = OffsetSpec.latest(), OffsetSpec.earliest()  # type: ignore[no-untyped-call]

Ends = dict[tuple[str, int], int]


class BrokerProbe:
    """The probing thread. `places` says which partitions there are, `told` takes their ends after each round."""

    def __init__(
        self, kafka: Kafka, places: Callable[[], Iterable[tuple[str, int]]], told: Callable[[Ends], None]
    ) -> None:
        self._kafka, self._places, self._told = kafka, places, told
        self._admin = kafka.admin()
        self.away: str | None = "Kafka has not answered yet"  # in words; None while it answers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-reach", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def check(self) -> str | None:
        return self.away

    def lost(self, reason: str) -> None:
        """Told by whoever has just waited for Kafka in vain; the next probe that succeeds takes it back."""
        self.away = self.away or reason

    async def ends(self, places: Iterable[tuple[str, int]]) -> Ends:
        """The offset after the last record of each partition, as of now; Retryable when Kafka does not answer."""
        return await self._answers(places, _LATEST)

    async def starts(self, places: Iterable[tuple[str, int]]) -> Ends:
        """The offset of the first record that Kafka still holds of each partition; Retryable as `ends`."""
        return await self._answers(places, _EARLIEST)

    async def _answers(self, places: Iterable[tuple[str, int]], spec: Any) -> Ends:
        if self.away:
            raise Retryable(self.away)
        wanted = list(places)
        try:
            async with asyncio.timeout(_TIMEOUT_S + 0.5):
                try:
                    return await self._offsets(wanted, spec)
                except KafkaException as e:
                    self._renew(e)
                    return await self._offsets(wanted, spec)
        except (KafkaException, TimeoutError) as e:
            raise Retryable(f"Kafka does not answer: {_words(e)}") from None

    async def _offsets(self, places: list[tuple[str, int]], spec: Any) -> Ends:
        return {p: (await asyncio.wrap_future(f)).offset for p, f in self._ask(places, spec).items()}

    def _ask(self, places: list[tuple[str, int]], spec: Any) -> dict[tuple[str, int], Any]:
        wanted = {TopicPartition(self._kafka.topic(t), p): spec for t, p in places}
        found = self._admin.list_offsets(wanted, request_timeout=_TIMEOUT_S) if wanted else {}
        return {(self._kafka.unprefixed(p.topic), p.partition): f for p, f in found.items()}

    def _renew(self, error: KafkaException) -> None:
        """A new client where the old one goes on asking with what it knew of partition leaders before they changed."""
        if error.args[0].code() not in _LEADER_CHANGED:
            raise error
        self._admin = self._kafka.admin()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                try:
                    self._probe()
                except KafkaException as e:
                    self._renew(e)
                    self._probe()
                self.away = None
            except (KafkaException, TimeoutError) as e:
                self.away = f"Kafka does not answer: {_words(e)}"
                log_throttled("reach", "%s", self.away)
            self._stop.wait(_ASK_EVERY_S)

    def _probe(self) -> None:
        places = list(self._places())
        if not places:
            self._admin.list_topics(timeout=_TIMEOUT_S)
            return
        asked = self._ask(places, _LATEST)
        self._told({p: f.result(_TIMEOUT_S + 0.5).offset for p, f in asked.items()})


def _words(error: Exception) -> str:
    return error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
