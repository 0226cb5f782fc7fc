"""The lines of `headrace nodes`."""

import pytest

from headrace.cli.tasks import _node_line


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("alive", "n-1  a:7  alive  1 of 2 slots busy  heard 3 s ago"),
        ("draining", "n-1  a:7  draining  1 of 2 slots busy  heard 3 s ago"),
        ("drained", "n-1  a:7  drained  2 slots  heard 3 s ago"),
        ("dead", "n-1  a:7  dead  2 slots  heard 3 s ago"),
    ],
)
def test_a_node_that_has_ended_has_no_busy_slots(state: str, line: str) -> None:
    node = {"node": "n-1", "host": "a", "pid": 7, "slots": 2, "running": [{}], "seen_s": 3.2, "state": state}
    assert _node_line(node) == line


def test_what_stands_still_on_a_node_is_below_it() -> None:
    node = {"node": "n-1", "host": "a", "pid": 7, "slots": 2, "running": [], "seen_s": 0.2, "state": "alive"}
    wait = {"since": "2026-11-23T18:00:00.000Z", "text": "partition 3 of tasks.normal waits"}
    assert _node_line(node | {"waits": [wait]}).split("\n") == [
        "n-1  a:7  alive  0 of 2 slots busy  heard 0 s ago",
        "    since 2026-11-23T18:00:00.000Z: partition 3 of tasks.normal waits",
    ]
