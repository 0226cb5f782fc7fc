"""Where the newest submissions of this gateway lie in the log, so that a look-up need not ask Kafka how far to read.

Whoever has just had a 202 asks for the task next, often before the status view has come by its record. Bounded; used on
the event loop alone.
"""

MOST = 10_000  # the view is seldom a second behind, and what has left here is only asked for the longer way


class RecentSubmissions:
    """Task id -> the offset after its record, by (topic, partition)."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._ends: dict[str, dict[tuple[str, int], int]] = {}

    def add(self, task_id: str, topic: str, partition: int, offset: int) -> None:
        if len(self._ends) >= self._most:
            del self._ends[next(iter(self._ends))]
        self._ends[task_id] = {(topic, partition): offset + 1}

    def ends(self, task_id: str) -> dict[tuple[str, int], int] | None:
        """Up to where the view must have read to know that task; None when this gateway does not remember it."""
        return self._ends.get(task_id)
