"""What a gateway remembers of its newest submissions: bounded, the oldest first to go."""

from gateway.view.recent_submissions import RecentSubmissions


def test_the_place_after_a_tasks_record_is_remembered() -> None:
    submissions = RecentSubmissions()
    submissions.add_submission("a", "tasks.normal", 3, 17)
    assert submissions.end_offsets("a") == {("tasks.normal", 3): 18}
    assert submissions.end_offsets("b") is None


def test_it_holds_so_many_and_no_more() -> None:
    submissions = RecentSubmissions(max_submissions=2)
    for offset, task_id in enumerate("abc"):
        submissions.add_submission(task_id, "tasks.normal", 0, offset)
    assert [submissions.end_offsets(task_id) is None for task_id in "abc"] == [True, False, False]
