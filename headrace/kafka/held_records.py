"""Records that Kafka has not taken and that their sender keeps until it does.

Used by `headrace.kafka.sender` alone. Of each key the first record is sent again from time to time, and later ones wait
behind it: they would otherwise overtake it. Records of other keys go their way. Pure; safe from any thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from headrace.contract.records import Outgoing

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 5.0


class Written(tuple[str, int, int]):
    """(topic, partition, offset) of a record, and when the broker appended it."""

    timestamp_ms: int


Sent = Future[tuple[str, int, int]]  # a Written, once Kafka has the record


class Receipt(Protocol):
    """What the sender tells about a record: the methods of `Sent` that it uses. It calls them from any thread."""

    def cancel(self) -> bool: ...

    def cancelled(self) -> bool: ...

    def set_running_or_notify_cancel(self) -> bool: ...

    def set_result(self, result: Written) -> None: ...

    def set_exception(self, exception: BaseException | None) -> None: ...


def _future() -> Sent:
    return Future()


@dataclass(slots=True, eq=False)
class Sending:
    """A record on its way. `wanted`: for a record that the sender owns, whether it is still to be sent."""

    record: Outgoing
    expires_at: float  # monotonic; infinity without a limit
    wanted: Callable[[], bool] | None = None
    done: Receipt = field(default_factory=_future)
    has_waited_for_partition: bool = False

    @property
    def is_owned(self) -> bool:
        return self.wanted is not None

    @property
    def is_over(self) -> bool:
        """Whether nobody wants it any more; its future is cancelled then."""
        if self.wanted is not None and not self.wanted():
            self.done.cancel()
        return self.done.cancelled()


@dataclass(slots=True)
class _Queue:
    """The records of one key, of which the first is due at `due_at`: infinity while it is on its way."""

    sendings: deque[Sending]
    wait_s: float
    due_at: float


_Key = tuple[str, bytes | None]


class HeldRecords:
    """By topic and key, in the order in which they were sent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queues: dict[_Key, _Queue] = {}
        self._lock = threading.RLock()  # `is_over` calls back

    def __len__(self) -> int:
        return sum(len(q.sendings) for q in list(self._queues.values()))

    def holds_key_of(self, record: Outgoing) -> bool:
        """Whether an earlier record of the same key waits here."""
        return bool(self._queues) and _key(record) in self._queues

    def hold(self, sending: Sending) -> None:
        """Keeps a record that was not taken, or one that must not overtake another of its key."""
        now = self._clock()
        with self._lock:
            queue = self._queues.get(_key(sending.record))
            if queue is None:
                self._queues[_key(sending.record)] = _Queue(deque([sending]), _FIRST_WAIT_S, now + _FIRST_WAIT_S)
            elif queue.sendings[0] is sending:
                queue.wait_s = min(_LONGEST_WAIT_S, queue.wait_s * 2)
                queue.due_at = now + queue.wait_s
            else:
                queue.sendings.append(sending)

    def release(self, sending: Sending) -> None:
        """Kafka has taken it: the next of its key is due."""
        if not self._queues:
            return
        with self._lock:
            queue = self._queues.get(_key(sending.record))
            if queue is not None and queue.sendings[0] is sending:
                self._drop_first(queue)

    def take_due(self) -> list[Sending]:
        """The records to send now; the caller holds or releases each again."""
        now, due = self._clock(), []
        with self._lock:
            for queue in list(self._queues.values()):
                while queue.sendings and queue.due_at <= now:
                    if queue.sendings[0].is_over:
                        self._drop_first(queue)
                    else:
                        due.append(queue.sendings[0])
                        queue.due_at = float("inf")
        return due

    def _drop_first(self, queue: _Queue) -> None:
        dropped = queue.sendings.popleft()
        queue.wait_s, queue.due_at = _FIRST_WAIT_S, self._clock()
        if not queue.sendings:
            del self._queues[_key(dropped.record)]


def _key(record: Outgoing) -> _Key:
    return record.topic, record.key
