"""Whether Kafka answers, and where its partitions end: probed every two seconds, and on demand by handlers.

While the probe finds Kafka unavailable, handlers refuse submissions at once instead of after the sender's time limit.
After each probe a callback gets the end offsets, from which health and metrics have the status view's lag.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # exported at run time

from headrace.errors import Refused, Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.partition_counts import PartitionCounts, read_partition_counts
from headrace.process.throttled_log import log_throttled

log = logging.getLogger(__name__)

_PROBE_EVERY_S = 2.0
_TIMEOUT_S = 2.0
_LEADER_CHANGED = {
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
}

_LATEST, _EARLIEST = OffsetSpec.latest(), OffsetSpec.earliest()  # type: ignore[no-untyped-call]

Offsets = dict[tuple[str, int], int]  # by (topic, partition)


class BrokerProbe:
    """The probing thread. `partitions` names the ones to probe; `on_end_offsets` gets, after each probe,
    the offsets up to which they can be read."""

    def __init__(
        self,
        kafka: Kafka,
        partitions: Callable[[], Iterable[tuple[str, int]]],
        on_end_offsets: Callable[[Offsets], None],
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_turn` is called before each probe, in its thread."""
        self._kafka, self._partitions, self._on_end_offsets = kafka, partitions, on_end_offsets
        self._on_turn = on_turn
        self.last_ends: Offsets = {}  # of the last probe
        self.unavailable: str | None = "Kafka has not answered yet"  # the reason; None while Kafka answers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker-probe", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def check(self) -> str | None:
        """For health: None, or why Kafka is unavailable."""
        return self.unavailable

    def report_failure(self, error: Retryable) -> None:
        """For a handler whose own request to Kafka failed. The next successful probe clears it.

        A refusal is none: Kafka answers, and other requests may succeed.
        """
        if not isinstance(error, Refused):
            self.unavailable = self.unavailable or str(error)

    async def end_offsets(self, partitions: Iterable[tuple[str, int]]) -> Offsets:
        """The offset after the last record of each partition, as of now; Retryable when Kafka does not answer.

        Also where an open transaction still hides the last records from readers: an answer that depends on them must
        wait.
        """
        return await self._list_offsets(partitions, _LATEST)

    async def readable_offsets(self, partitions: Iterable[tuple[str, int]]) -> Offsets:
        """The offset up to which each partition can be read, as of now; Retryable when Kafka does not answer."""
        return await self._list_offsets(partitions, _LATEST, IsolationLevel.READ_COMMITTED)

    async def start_offsets(self, partitions: Iterable[tuple[str, int]]) -> Offsets:
        """The offset of the first retained record of each partition; Retryable when Kafka does not answer."""
        return await self._list_offsets(partitions, _EARLIEST)

    async def partition_counts(self) -> PartitionCounts:
        """How many partitions the topics have now; Retryable when Kafka does not answer."""
        if self.unavailable:
            raise Retryable(self.unavailable)
        return await asyncio.to_thread(read_partition_counts, self._kafka, _TIMEOUT_S)

    async def _list_offsets(
        self,
        partitions: Iterable[tuple[str, int]],
        spec: Any,
        isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
    ) -> Offsets:
        if self.unavailable:
            raise Retryable(self.unavailable)
        wanted = list(partitions)
        try:
            async with asyncio.timeout(_TIMEOUT_S + 0.5):
                try:
                    return await self._await_offsets(wanted, spec, isolation)
                except KafkaException as e:
                    self._renew_client(e)
                    return await self._await_offsets(wanted, spec, isolation)
        except (KafkaException, TimeoutError) as e:
            raise Retryable(_describe(e)) from None

    async def _await_offsets(self, partitions: list[tuple[str, int]], spec: Any, isolation: IsolationLevel) -> Offsets:
        requested = self._request_offsets(partitions, spec, isolation)
        return {p: (await asyncio.wrap_future(f)).offset for p, f in requested.items()}

    def _request_offsets(
        self,
        partitions: list[tuple[str, int]],
        spec: Any,
        isolation: IsolationLevel,
    ) -> dict[tuple[str, int], Any]:
        """A future for each partition."""
        wanted = {TopicPartition(self._kafka.topic(t), p): spec for t, p in partitions}
        found = (
            self._kafka.admin().list_offsets(wanted, request_timeout=_TIMEOUT_S, isolation_level=isolation)
            if wanted
            else {}
        )
        return {(self._kafka.unprefixed(p.topic), p.partition): f for p, f in found.items()}

    def _renew_client(self, error: KafkaException) -> None:
        """Makes a new client after a leader change: the old one keeps its stale metadata. Raises any other error."""
        if error.args[0].code() not in _LEADER_CHANGED:
            raise error
        self._kafka.renew_admin()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._on_turn()
            try:
                try:
                    self._probe()
                except KafkaException as e:
                    self._renew_client(e)
                    self._probe()
                self.unavailable = None
            except (KafkaException, TimeoutError) as e:
                self.unavailable = _describe(e)
                log_throttled("broker probe", "%s", self.unavailable)
            self._stop.wait(_PROBE_EVERY_S)

    def _probe(self) -> None:
        partitions = list(self._partitions())
        if not partitions:
            self._kafka.admin().list_topics(timeout=_TIMEOUT_S)
            return
        requested = self._request_offsets(partitions, _LATEST, IsolationLevel.READ_COMMITTED)
        self.last_ends = {p: f.result(_TIMEOUT_S + 0.5).offset for p, f in requested.items()}
        self._on_end_offsets(self.last_ends)


def _describe(error: Exception) -> str:
    reason = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
    return f"Kafka does not answer: {reason}"
