"""The newest submissions of a gateway: bounded, and the oldest is forgotten first."""

from gateway.view.recent_submissions import RecentSubmissions


def test_the_offset_after_a_record_is_remembered() -> None:
    submissions = RecentSubmissions()
    submissions.add_submission("a", "tasks.normal", 3, 17)
    assert submissions.end_offsets("a") == {("tasks.normal", 3): 18}
    assert submissions.end_offsets("b") is None


def test_the_oldest_submission_is_forgotten() -> None:
    submissions = RecentSubmissions(max_submissions=2)
    for offset, task_id in enumerate("abc"):
        submissions.add_submission(task_id, "tasks.normal", 0, offset)
    assert [submissions.end_offsets(task_id) is None for task_id in "abc"] == [True, False, False]
