"""Which partitions an open transaction blocks, whose it is and since when: for `/readyz`, the log and the metrics.

By Kafka's rules nobody reads beyond the first record of a transaction until it is committed or aborted, or its timeout
aborts it. That is no fault of a role, so it makes none unready; but a person must learn why tasks do not start. Each
role has one `OpenTransactions`, whose thread asks Kafka every few seconds.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException

from headrace.contract.records import Place, Source
from headrace.contract.timestamps import format_rfc3339
from headrace.errors import Retryable, UsageError
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.metadata import partitions_of
from headrace.kafka.raw_client import leader_of, raw_client
from headrace.kafka.reading import end_offsets, fetch_record, high_watermarks
from headrace.process.throttled_log import log_throttled

log = logging.getLogger(__name__)

_EVERY_S = 3.0
_PATIENCE_S = 4.0  # a transaction that is over sooner is not worth a word
_ANSWER_S = 3.0
_PARTITIONS_EVERY_S = 60.0  # for new partitions


@dataclass(slots=True)
class _Blocked:
    """A partition that could not be read beyond `offset` for `since_s` (monotonic) or longer."""

    offset: int
    since_s: float
    whose: str | None = None  # in words, once it was asked


class OpenTransactions:
    """`start` it, then `close` it; the rest is safe from any thread."""

    def __init__(self, kafka: Kafka, topics: Sequence[str]) -> None:
        """`topics` come without the installation's prefix."""
        self._kafka, self._topics = kafka, topics
        self._places: list[Place] = []
        self._places_at = float("-inf")
        self._blocked: Mapping[Place, _Blocked] = {}  # never changed, only replaced
        self._whole: dict[Place, int] = {}  # ends up to which partitions could be read
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="open-transactions", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(2 * _ANSWER_S)

    def notes(self) -> list[str]:
        """A sentence for each blocked partition."""
        return [_sentence(place, b) for place, b in sorted(self._long_blocked().items())]

    def count(self) -> int:
        """How many partitions are blocked."""
        return len(self._long_blocked())

    def _long_blocked(self) -> dict[Place, _Blocked]:
        return {place: b for place, b in self._blocked.items() if b.whose is not None}

    def _run(self) -> None:
        while not self._closing.wait(_EVERY_S):
            try:
                self._look()
            except (Retryable, KafkaException) as e:
                log_throttled("open transactions", "Open transactions are not known: %s", e)
                self._kafka.renew_admin()

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._places_at > _PARTITIONS_EVERY_S:
            names = {self._kafka.topic(t): t for t in self._topics}
            found = partitions_of(self._kafka.admin(), names, _ANSWER_S)
            self._places, self._places_at = [(names[n], p) for n, ps in found.items() for p in ps], now
        written = high_watermarks(self._kafka, self._kafka.admin(), self._places)
        # A partition that could be read to its end, and has the same end, still can: an idle role asks half as much.
        changed = [place for place, end in written.items() if self._whole.get(place) != end]
        readable = end_offsets(self._kafka, self._kafka.admin(), changed)
        blocked = {}
        for place, offset in readable.items():
            if offset >= written[place]:
                self._whole[place] = written[place]
            else:
                known = self._blocked.get(place)
                blocked[place] = known if known and known.offset == offset else _Blocked(offset, now)
        for place, found_blocked in blocked.items():
            if found_blocked.whose is None and now - found_blocked.since_s >= _PATIENCE_S:
                found_blocked.whose = self._ask_whose(place, found_blocked.offset)
                log.warning("%s", _sentence(place, found_blocked))
        for place in self._long_blocked().keys() - blocked.keys():
            log.info("%s/%d is no longer blocked by an open transaction", *place)
        self._blocked = blocked

    def _ask_whose(self, place: Place, offset: int) -> str:
        try:
            return asyncio.run(_describe(self._kafka, place, offset))
        except ImportError:
            reason = "aiokafka is not installed"
        except UsageError as e:
            reason = str(e)
        except Exception as e:  # noqa: BLE001 - aiokafka raises many; the partition is blocked all the same
            reason = str(e) or type(e).__name__
        return f"whose it is could not be asked ({reason}); {self._first_record_time(place, offset)}"

    def _first_record_time(self, place: Place, offset: int) -> str:
        consumer = self._kafka.consumer(None, **SHORT_FETCH | {"isolation.level": "read_uncommitted"})
        try:
            record = fetch_record(self._kafka, consumer, Source(*place, offset), _ANSWER_S)
        except (KafkaException, Retryable):
            record = None
        finally:
            consumer.close()
        return f"its first record came at {format_rfc3339(record.timestamp_ms)}" if record else "since when, neither"


def _sentence(place: Place, blocked: _Blocked) -> str:
    return (
        f"{place[0]}/{place[1]} cannot be read from offset {blocked.offset} on: an open transaction ({blocked.whose}) "
        "blocks it until it is committed or aborted, or times out"
    )


async def _describe(kafka: Kafka, place: Place, offset: int) -> str:
    """Whose transaction begins at `offset`, and since when; raises aiokafka's errors, and LookupError."""
    from headrace.kafka.transaction_requests import DescribeProducers

    topic, partition = kafka.topic(place[0]), place[1]
    async with raw_client(kafka, _ANSWER_S) as client:
        leader = await leader_of(client, topic, partition)
        answer = await client.send(leader, DescribeProducers(topic, partition))
        [(_, [(_, error, message, producers, _)], _)] = answer.topics
        if error:
            raise LookupError(message or f"DescribeProducers: error {error}")
        ids = [p[0] for p in producers if p[5] == offset]
        if not ids:
            raise LookupError("Kafka names no producer whose transaction begins there")
        return await _describe_producer(client, ids[0])


async def _describe_producer(client: Any, producer_id: int) -> str:
    """The transactional id, the begin and the timeout, as far as we may know them."""
    from headrace.kafka.transaction_requests import DescribeTransactions, ListTransactions

    for broker in client.cluster.brokers():
        listed = await client.send(broker.nodeId, ListTransactions(producer_id))
        for transactional_id, owner, _, _ in listed.transaction_states:
            if owner != producer_id:
                continue
            answer = await client.send(broker.nodeId, DescribeTransactions(transactional_id))
            [(error, _, _, timeout_ms, began_ms, *_)] = answer.transaction_states
            named = f"of transactional id {transactional_id}, producer {producer_id}"
            if error or began_ms < 0:
                return named
            return f"{named}, begun at {format_rfc3339(began_ms)}, with a timeout of {timeout_ms / 1000:g} s"
    return f"of producer {producer_id}, whose transactional id we may not see"
