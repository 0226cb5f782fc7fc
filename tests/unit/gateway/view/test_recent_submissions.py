"""What a gateway remembers of its newest submissions: bounded, the oldest first to go."""

from gateway.view.recent_submissions import RecentSubmissions


def test_the_place_after_a_tasks_record_is_remembered() -> None:
    acknowledged = RecentSubmissions()
    acknowledged.add("a", "tasks.normal", 3, 17)
    assert acknowledged.ends("a") == {("tasks.normal", 3): 18}
    assert acknowledged.ends("b") is None


def test_it_holds_so_many_and_no_more() -> None:
    acknowledged = RecentSubmissions(most=2)
    for offset, task_id in enumerate("abc"):
        acknowledged.add(task_id, "tasks.normal", 0, offset)
    assert [acknowledged.ends(task_id) is None for task_id in "abc"] == [True, False, False]
