"""Which tasks of the audit's projection were submitted more than once, and at which places of the log.

An id that lies in two partitions (its key spelt in two ways, or a producer with another partitioner), or that comes
again after the window of rule D, is received and started once for each of its records. That is no fault: the first
outcome decides. A second event of the *same* record is one, and stays with the caller.

`AuditProjection` calls it in its own transaction. Ids are the UUID's 16 bytes, sources are "topic/partition/offset".
"""

import sqlite3
from collections.abc import Iterable, Mapping

SCHEMA = """
CREATE TABLE copies (
  id BLOB, source TEXT, received INT, started INT, reported INT DEFAULT 0, PRIMARY KEY (id, source)
) WITHOUT ROWID;
"""


class Copies:
    """Keeps a row for each record of an id that has several; ids with one record have none. The file has SCHEMA."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add_event(self, task_id: bytes, first: str, event: str, source: str, *, had: bool) -> bool:
        """Notes `event` (received or started) of the record at `source`; returns whether it had it already.

        `first`: the source of the task's first event; `had`: whether that record had this event before. Call it for an
        event whose source is not `first`, and for one that repeats.
        """
        known = self._sources(task_id)
        if not known and source == first:
            return had
        if not known:
            self.add_sources(task_id, [first], {event: had})
        if known.get(source, {}).get(event):
            return True
        self.add_sources(task_id, [source], {event: True})
        return False

    def add_sources(self, task_id: bytes, sources: Iterable[str], events: Mapping[str, bool]) -> None:
        """Notes records of the id, with the events (received, started) that are known of each."""
        had = events.get("received", False), events.get("started", False)
        self._db.executemany(
            "INSERT INTO copies (id, source, received, started) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "received = MAX(received, excluded.received), started = MAX(started, excluded.started)",
            ((task_id, source, *had) for source in sources),
        )

    def unreported(self) -> dict[bytes, list[str]]:
        """The sources of each id of which a record was found since `mark_reported`."""
        found: dict[bytes, list[str]] = {}
        for task_id, source in self._db.execute(
            "SELECT id, source FROM copies WHERE id IN (SELECT id FROM copies WHERE reported = 0) ORDER BY id, source"
        ):
            found.setdefault(task_id, []).append(source)
        return found

    def mark_reported(self, copies: Mapping[bytes, list[str]]) -> None:
        rows = ((i, source) for i, sources in copies.items() for source in sources)
        self._db.executemany("UPDATE copies SET reported = 1 WHERE id = ? AND source = ?", rows)

    def forget_closed(self) -> None:
        """Drops the reported copies of tasks that the projection has forgotten."""
        self._db.execute("DELETE FROM copies WHERE reported = 1 AND id NOT IN (SELECT id FROM tasks)")

    def _sources(self, task_id: bytes) -> dict[str, dict[str, bool]]:
        rows = self._db.execute("SELECT source, received, started FROM copies WHERE id = ?", (task_id,))
        return {source: {"received": bool(r), "started": bool(s)} for source, r, s in rows}
