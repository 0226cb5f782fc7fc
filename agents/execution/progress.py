"""Progress of running attempts, from the pool to the topic `progress`, at most ten records a second for each attempt.

Of reports that come faster, or while Kafka has not acknowledged the one before, only the newest is kept: an outage of
any length costs two reports an attempt. The last report always arrives when Kafka takes it. Nothing else depends on
progress, so what Kafka refuses is dropped. Belongs to the event loop.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from headrace.contract.progress import Progress
from headrace.contract.records import Outgoing
from headrace.kafka.sender import Sent
from headrace.process.throttled_log import log_throttled

EVERY_S = 0.1
MOST_ATTEMPTS = 1000  # whose reports are on their way at once; of further ones nothing is sent

_Key = tuple[str, int]  # task id, attempt


@dataclass(slots=True)
class _Reports:
    """Of one attempt: the one on its way, and the newest after it."""

    sent: Sent
    newest: Progress | None = None


class ProgressRelay:
    """`send` must not block."""

    def __init__(self, send: Callable[[Outgoing], Sent]) -> None:
        self._send = send
        self._reports: dict[_Key, _Reports] = {}  # of attempts that have reported within EVERY_S, or wait for Kafka

    def report(self, progress: Progress) -> None:
        """Sends it now, or later, or drops it when a newer one comes before its time."""
        key = (progress.id, progress.attempt)
        if (reports := self._reports.get(key)) is not None:
            reports.newest = progress
        elif len(self._reports) < MOST_ATTEMPTS:
            self._send_now(key, progress)

    def _send_now(self, key: _Key, progress: Progress) -> None:
        self._reports[key] = _Reports(self._send(progress.encode()))
        self._look_later(key)

    def _look_later(self, key: _Key) -> None:
        asyncio.get_running_loop().call_later(EVERY_S, self._look, key)

    def _look(self, key: _Key) -> None:
        reports = self._reports[key]
        if not reports.sent.done():
            self._look_later(key)
            return
        if error := reports.sent.exception():
            log_throttled("progress", "A report of progress is dropped: %s", error)
        del self._reports[key]
        if reports.newest is not None:
            self._send_now(key, reports.newest)
