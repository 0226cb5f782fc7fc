"""Keeps the terminal index fast and its snapshots fresh: a thread that merges new events into the base files.

A partition is merged when enough events have come, or when some have and ten minutes have passed; the new base file is
also the snapshot for the partition's next owner. So an owner reads some 20,000 events a partition at most, however many
tasks there ever were. Errors of disk and results root are logged and tried again; the index works without it.
"""

import sqlite3
import threading
import time

from headrace.process.throttled_log import log_throttled

from .index_snapshots import IndexSnapshots
from .terminal_index import TerminalIndex

MERGE_EVENTS, MERGE_EVERY_S = 20_000, 600.0
_LOOK_EVERY_S = 1.0


class IndexUpkeep:
    """`start` it, then `close` it before the index."""

    def __init__(self, index: TerminalIndex, snapshots: IndexSnapshots, merge_events: int = MERGE_EVENTS) -> None:
        self._index, self._snapshots, self._merge_events = index, snapshots, merge_events
        self._merged_at: dict[int, float] = {}
        self._began = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="index-upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Waits for the merge that is under way, but not for a results root that does not answer."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(10)

    def _run(self) -> None:
        while not self._closing.wait(_LOOK_EVERY_S):
            for partition, count in list(self._index.unmerged.items()):
                if self._is_due(partition, count) and not self._closing.is_set():
                    self._try_to_merge(partition)

    def _is_due(self, partition: int, count: int) -> bool:
        waited_s = time.monotonic() - self._merged_at.get(partition, self._began)
        if not self._index.installation or waited_s < _LOOK_EVERY_S * 5:
            return False  # it is not known whose log it is of, or the last one may not be in use yet
        return count >= self._merge_events or (count > 0 and waited_s > MERGE_EVERY_S)

    def _try_to_merge(self, partition: int) -> None:
        self._merged_at[partition] = time.monotonic()
        try:
            base = self._index.bases.merge(partition, self._index.installation)
        except (OSError, sqlite3.Error) as e:
            log_throttled("merge", "The index of partition %d is merged later: %s", partition, e)
            return
        if base is None:
            return
        self._snapshots.try_to_save(base.path, partition)
        self._index.bases.put_merged(base)
