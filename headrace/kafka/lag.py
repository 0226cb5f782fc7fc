"""The lag of a consumer group: how many records wait, and whether its offsets advance (I8 in docs/invariants.md).

Used by worker and storekeeper for health, metrics and the stats page. A thread asks Kafka every two seconds, so that
neither the event loop nor a consumer's own thread waits for the answer. When Kafka does not answer, the last figures
stay, and `age_s` says how old they are.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from confluent_kafka import KafkaException

from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.kafka.metadata import partitions_of
from headrace.kafka.reading import committed_offsets, end_offsets, error_text, first_offsets
from headrace.process.health import StallDetector
from headrace.process.throttled_log import log_throttled

log = logging.getLogger(__name__)

TOPICS = ("tasks.normal", "tasks.high")
EVERY_S = 2.0
_ANSWER_S = 5.0


class LagWatch:
    """The lag of `group` (without prefix) on `topics`. `own_places` gives the places that this process works on.

    `is_excused` says that offsets may stand still at this moment. `ahead` gives, by place, the offset that the work
    has reached while its commit is held back on purpose.
    """

    def __init__(
        self,
        kafka: Kafka,
        group: str,
        own_places: Callable[[], Iterable[Place]],
        topics: Sequence[str] = TOPICS,
        is_excused: Callable[[], bool] = lambda: False,
        ahead: Callable[[], Mapping[Place, int]] = dict,
    ) -> None:
        self._kafka, self._group, self._own_places, self._topics = kafka, group, own_places, topics
        self._is_excused, self._ahead = is_excused, ahead
        self._lag: dict[str, int] | None = None
        self._refreshed_at = 0.0
        self._stall_detector = StallDetector(f"group {kafka.group(group)}")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lag-{group}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(2 * _ANSWER_S)

    def waiting(self) -> dict[str, int] | None:
        """The number of records not yet committed, by topic; None before Kafka's first answer."""
        return self._lag

    def age_s(self) -> float | None:
        """The age of `waiting` in seconds; None before Kafka's first answer."""
        return time.monotonic() - self._refreshed_at if self._lag is not None else None

    def check(self) -> str | None:
        """For health: None, or that the offsets of our own partitions stand still although records wait."""
        return self._stall_detector.check()

    def lost_offsets(self) -> list[Place]:
        """Places that are trimmed, so the group has read them, but without a committed offset; Retryable."""
        ends = self._ends()
        committed = self._committed(ends)
        return [place for place, (low, _) in ends.items() if low > 0 and place not in committed]

    def refresh(self) -> None:
        """Asks Kafka once; Retryable when it does not answer."""
        ends = self._ends()
        committed = self._committed(ends)
        lag = dict.fromkeys(self._topics, 0)
        for place, (low, end) in ends.items():
            lag[place[0]] += end - max(low, committed.get(place, low))
        own = [place for place in self._own_places() if place in ends]
        ahead = self._ahead()
        reached = {p: max(ends[p][0], committed.get(p, 0), ahead.get(p, 0)) for p in own}
        behind = sum(max(0, ends[p][1] - at) for p, at in reached.items())
        self._stall_detector.update(reached, 0 if self._is_excused() else behind)
        self._lag, self._refreshed_at = lag, time.monotonic()

    def _ends(self) -> dict[Place, tuple[int, int]]:
        """The first and the next offset of each partition."""
        names = {t: self._kafka.topic(t) for t in self._topics}
        try:
            known = partitions_of(self._kafka.admin(), names.values(), _ANSWER_S)
        except KafkaException as e:
            raise Retryable(f"the topics are not known: {error_text(e)}") from None
        places = [(t, p) for t, name in names.items() for p in known.get(name, ())]
        first = first_offsets(self._kafka, self._kafka.admin(), places)
        following = end_offsets(self._kafka, self._kafka.admin(), places)
        return {place: (first[place], following[place]) for place in places}

    def _committed(self, places: Iterable[Place]) -> dict[Place, int]:
        found = committed_offsets(self._kafka, self._kafka.group_reader(self._group), places, _ANSWER_S)
        return {place: offset for place, offset in found.items() if offset >= 0}

    def _run(self) -> None:
        while not self._closing.is_set():
            self._kafka.drop_errors()
            try:
                self.refresh()
            except Retryable as e:
                log_throttled(f"lag {self._group}", "the lag of group %s is not known: %s", self._group, e)
                self._kafka.renew_admin()
            self._closing.wait(EVERY_S)
