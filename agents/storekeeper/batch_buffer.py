"""The outcomes that the storekeeper's consumer has read and its agent has not yet taken, limited in number and bytes.

The consumer's thread puts records in, the agent takes them as batches. When a generation of the group ends, its records
here are dropped: nothing commits them, so their partitions' next owner reads them again.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from headrace.contract.records import Record

MOST_RECORDS = 512  # in one batch: files are synced and events sent together
MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class OutcomeBatch:
    """Everything that was in the buffer; at first, when a generation begins, perhaps nothing.

    `ends`: partition -> offset to which it has been read beyond its last record.
    """

    generation: int
    records: list[Record]
    ends: dict[int, int] = field(default_factory=dict)


class BatchBuffer:
    """For one thread that puts and one that takes; all methods are safe from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._generation = -1
        self._begins = False  # the generation has had no batch yet
        self._records: list[Record] = []
        self._ends: dict[int, int] = {}
        self._bytes = 0
        self._taken_at: float | None = None  # None while no batch is being worked on
        self._closed = False

    def begin_generation(self, generation: int) -> None:
        """A new generation of the group begins."""
        with self._changed:
            self._generation, self._begins = generation, True
            self._records, self._ends, self._bytes = [], {}, 0
            self._changed.notify_all()

    def end_generation(self) -> None:
        """The generation is over: records that were not taken are dropped."""
        with self._changed:
            self._clear()
            self._changed.notify_all()

    def put_records(self, records: list[Record], ends: Mapping[int, int] = MappingProxyType({})) -> None:
        """`ends`: partition -> offset to which it has been read beyond its last record, over transactions' markers."""
        with self._changed:
            self._records += records
            self._ends |= ends
            self._bytes += sum(len(r.value or b"") for r in records)

    @property
    def is_full(self) -> bool:
        return len(self._records) >= MOST_RECORDS or self._bytes >= MOST_BYTES

    def wait_for_room(self, timeout_s: float) -> bool:
        """Returns whether there is room within `timeout_s` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.is_full, timeout_s)

    def take_batch(self) -> OutcomeBatch | None:
        """Everything in the buffer; the caller calls `finish_batch` when it is handled.

        None when the buffer has nothing new, and after `close`.
        """
        with self._changed:
            if self._closed or not (self._records or self._ends or self._begins):
                return None
            batch = OutcomeBatch(self._generation, self._records, self._ends)
            self._clear()
            self._taken_at = time.monotonic()
            self._changed.notify_all()
            return batch

    def finish_batch(self) -> None:
        """The batch that was taken last is handled, or given up."""
        with self._changed:
            self._taken_at = None
            self._changed.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Returns whether no batch is being worked on within `timeout_s` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._taken_at is None, timeout_s)

    def busy_s(self) -> float:
        """For how many seconds the current batch has been worked on; 0 when there is none."""
        since = self._taken_at
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """No batch is taken from now on."""
        with self._changed:
            self._closed = True

    def _clear(self) -> None:
        self._begins, self._records, self._ends, self._bytes = False, [], {}, 0
