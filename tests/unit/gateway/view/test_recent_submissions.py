"""The newest submissions of a gateway: what a look-up is told of them, and that the oldest is forgotten first."""

from gateway.view.projection import TaskView, id_bytes
from gateway.view.recent_submissions import RecentSubmissions
from headrace.contract.ids import new_id
from headrace.contract.submission import Submission
from headrace.kafka.sender import Written

SUBMISSION = Submission(name="prime", payload={}, directory="demo")


def written(offset: int) -> Written:
    place = Written(("tasks.normal", 3, offset))
    place.timestamp_ms = 1_764_000_000_000 + offset
    return place


def test_a_submission_is_found_as_the_view_will_hold_it() -> None:
    submissions, task_id = RecentSubmissions(), new_id()
    submissions.add_submission(task_id, SUBMISSION, "digest", written(17))
    assert submissions.find(task_id) == TaskView(
        id_bytes(task_id),
        name="prime",
        directory="demo",
        submitted_ms=1_764_000_000_017,
        source="tasks.normal/3/17",
        digest="digest",
    )
    assert submissions.find(new_id()) is None


def test_the_oldest_submission_is_forgotten() -> None:
    submissions, ids = RecentSubmissions(max_submissions=2), [new_id() for _ in range(3)]
    for offset, task_id in enumerate(ids):
        submissions.add_submission(task_id, SUBMISSION, "", written(offset))
    assert [submissions.find(task_id) is None for task_id in ids] == [True, False, False]
