"""Tasks that ended long ago leave the status view, a few at a time, so that nothing ever waits for it.

The status store makes these steps, when `gateway.view.pruner` says so. Of a task that leaves, its id alone is kept: a
look-up answers 410, an Idempotency-Key goes on to its next id, and a record that comes late makes no half a task. How
far events were removed is kept for each partition, for streams that resume. Raises sqlite3.Error.
"""

import sqlite3
from collections.abc import Iterable

from .event_topics import EVENT_TOPICS
from .projection import id_bytes, partition_and_offset

STEP = 500  # tasks that a step looks at

Cursor = tuple[int, bytes]  # submitted_ms and id of the last task that was looked at
_Place = tuple[int, int, int]  # index in EVENT_TOPICS, partition, offset

START: Cursor = (-1, b"")
_PROGRESS = EVENT_TOPICS.index("progress")


def prune_tasks(w: sqlite3.Connection, before_ms: int, after: Cursor, limit: int = STEP) -> Cursor | None:
    """Looks at `limit` tasks behind `after`, and removes those that ended before that time.

    Returns where the next step goes on; None when no older task is left. In a transaction of the caller.
    """
    rows = w.execute(
        "SELECT submitted_ms, id, ended_ms, status, received_place, started_place, ended_place, redrive_of FROM tasks "
        "WHERE submitted_ms < ? AND (submitted_ms, id) > (?, ?) ORDER BY submitted_ms, id LIMIT ?",
        (before_ms, *after, limit),
    ).fetchall()
    gone = [row for row in rows if 0 < row[2] < before_ms and not _redrives_known(w, row[7])]
    ids = [(row[1],) for row in gone]
    places = [place for row in gone for place in _places_of(*row[3:7])]
    for (task_id,) in ids:
        reports = w.execute("SELECT partition, offset FROM progress WHERE id = ?", (task_id,))
        places += [(_PROGRESS, p, offset) for p, offset in reports]
    _remove_events(w, places)
    w.executemany("DELETE FROM progress WHERE id = ?", ids)
    w.executemany("DELETE FROM tasks WHERE id = ?", ids)
    w.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", ids)
    return (rows[-1][0], rows[-1][1]) if len(rows) == limit else None


def prune_progress(w: sqlite3.Connection, before_ms: int, limit: int = STEP) -> bool:
    """Removes up to `limit` progress reports older than that; whether there may be more. As `prune_tasks`."""
    rows = w.execute(
        "SELECT partition, offset, id FROM progress WHERE at_ms < ? ORDER BY at_ms LIMIT ?", (before_ms, limit)
    ).fetchall()
    _remove_events(w, [(_PROGRESS, p, offset) for p, offset, _ in rows])
    w.executemany("DELETE FROM progress WHERE id = ? AND offset = ?", [(i, offset) for _, offset, i in rows])
    return len(rows) == limit


def _places_of(status: str, received: int, started: int, ended: int) -> Iterable[_Place]:
    topics = (
        "lifecycle.received",
        "lifecycle.started",
        "lifecycle.completed" if status == "completed" else "tasks.dead",
    )
    for topic, place in zip(topics, (received, started, ended), strict=True):
        if place >= 0:
            yield (EVENT_TOPICS.index(topic), *partition_and_offset(place))


def _redrives_known(w: sqlite3.Connection, redrive_of: str) -> bool:
    """Whether the task redrives one that is still known: its redrives must stay counted."""
    try:
        old = id_bytes(redrive_of)
    except ValueError:
        return False
    return bool(redrive_of) and w.execute("SELECT 1 FROM tasks WHERE id = ?", (old,)).fetchone() is not None


def _remove_events(w: sqlite3.Connection, places: list[_Place]) -> None:
    w.executemany("DELETE FROM events WHERE topic = ? AND partition = ? AND offset = ?", places)
    ends: dict[tuple[int, int], int] = {}
    for topic, partition, offset in places:
        ends[topic, partition] = max(offset + 1, ends.get((topic, partition), 0))
    w.executemany(
        "INSERT INTO pruned VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET next = max(next, excluded.next)",
        [(t, p, n) for (t, p), n in ends.items()],
    )
