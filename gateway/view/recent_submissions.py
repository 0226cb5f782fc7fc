"""The newest submissions of this gateway, as tasks, for look-ups before the status view has read their records.

Clients often request a task right after its 202. Bounded; used on the event loop alone.
"""

from headrace.contract.records import Source
from headrace.contract.submission import Submission
from headrace.kafka.sender import Written

from .projection import TaskView, id_bytes

# The view is seldom a second behind. A task that is no longer remembered costs its look-up some requests to Kafka.
MAX_SUBMISSIONS = 10_000


class RecentSubmissions:
    """What the view will hold of each remembered task once it has read its first record."""

    def __init__(self, max_submissions: int = MAX_SUBMISSIONS) -> None:
        self._max_submissions = max_submissions
        self._known: dict[str, tuple[str, str, str, Written]] = {}

    def add_submission(self, task_id: str, submission: Submission, digest: str, written: Written) -> None:
        """Remembers a submission, and forgets the oldest when there are too many."""
        if len(self._known) >= self._max_submissions:
            del self._known[next(iter(self._known))]
        self._known[task_id] = submission.name, submission.directory, digest, written

    def find(self, task_id: str) -> TaskView | None:
        """The queued task; None when this gateway does not remember it."""
        if (known := self._known.get(task_id)) is None:
            return None
        name, directory, digest, written = known
        return TaskView(
            id_bytes(task_id),
            name=name,
            directory=directory,
            submitted_ms=written.timestamp_ms,
            source=str(Source(*written)),
            digest=digest,
        )
