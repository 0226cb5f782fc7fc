"""Where the newest submissions of this gateway lie in the log, so that a look-up need not ask Kafka for end offsets.

Clients often request a task right after its 202, before the status view has read its record. Bounded; used on the event
loop alone.
"""

# The view is seldom a second behind. A task that is no longer remembered costs its look-up one request to Kafka.
MAX_SUBMISSIONS = 10_000


class RecentSubmissions:
    """The offset after the record of each remembered task, by (topic, partition)."""

    def __init__(self, max_submissions: int = MAX_SUBMISSIONS) -> None:
        self._max_submissions = max_submissions
        self._end_offsets: dict[str, dict[tuple[str, int], int]] = {}

    def add_submission(self, task_id: str, topic: str, partition: int, offset: int) -> None:
        """Remembers a submission, and forgets the oldest when there are too many."""
        if len(self._end_offsets) >= self._max_submissions:
            del self._end_offsets[next(iter(self._end_offsets))]
        self._end_offsets[task_id] = {(topic, partition): offset + 1}

    def end_offsets(self, task_id: str) -> dict[tuple[str, int], int] | None:
        """The offsets that the view must reach to know the task; None when this gateway does not remember it."""
        return self._end_offsets.get(task_id)
