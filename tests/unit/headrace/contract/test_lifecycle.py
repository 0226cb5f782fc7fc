"""Lifecycle events: the bare id as value, everything else in headers."""

from headrace.contract.lifecycle import Event, received_event, started_event
from headrace.contract.records import Record
from headrace.contract.task import Task
from tests.rigs.messages import ID, RAW, as_read


def test_the_value_of_a_lifecycle_event_is_the_bare_id() -> None:
    task = Task.from_record(Record("tasks.normal", 2, 1, timestamp_ms=50, key=ID.encode(), value=RAW))
    for out in (received_event(task, "prime", "demo", "kafka"), started_event(task, "prime", "demo", "node-1", "boot")):
        assert (out.key, out.value) == (ID.encode(), ID.encode())
        event = Event.decode(as_read(out))
        assert (event.id, event.name, event.directory, event.source, event.submitted_ms) == (
            ID,
            "prime",
            "demo",
            "tasks.normal/2/1",
            50,
        )
