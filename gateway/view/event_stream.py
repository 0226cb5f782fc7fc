"""The stream of all tasks: which events follow a position vector, by the vector and the store alone.

The vector says which event records a listener has passed. A stored event is sent unless the vector has passed a later
event of its task. Earlier events of its task that the vector has not passed are sent before it. So every gateway,
whatever order it has read the topics in, sends a resuming client exactly the events that it has not had.
"""

from dataclasses import dataclass, field

from headrace.contract.states import Status

from . import task_events
from .event_topics import EVENT_TOPICS
from .position_vector import PositionVector
from .projection import partition_and_offset
from .store import StatusStore, StoredEvent, TaskFilter
from .task_events import TaskEvent

_RECEIVED, _STARTED, _PROGRESS, _COMPLETED, _DEAD = range(len(EVENT_TOPICS))


@dataclass(slots=True)
class EventStream:
    """One listener's place: its position vector, and the `seq` of the last stored event that was looked at."""

    store: StatusStore
    vector: PositionVector
    seq: int
    task_filter: TaskFilter = field(default_factory=TaskFilter)

    @classmethod
    def resume(
        cls, store: StatusStore, vector: PositionVector, last_seq: int, task_filter: TaskFilter
    ) -> "EventStream":
        """Before the first stored event that the vector has not passed; at `last_seq` when it has passed all.

        The caller must read `last_seq` from the store before this call.
        """
        before = [store.seq_before(topic, partition, n) for (topic, partition), n in vector.items()]
        return cls(store, vector, min([s for s in before if s is not None], default=last_seq), task_filter)

    def next_events(self, limit: int = 200) -> list[tuple[TaskEvent, PositionVector]] | None:
        """The events of the next `limit` stored ones, each with the vector after it; None when nothing is stored yet.

        An earlier event that is sent along with a later one carries the vector before both, so a client that
        disconnects between the two gets both again. The list is empty when the filter drops all events.
        """
        stored = self.store.events_after(self.seq, limit)
        if not stored:
            return None
        pairs: list[tuple[TaskEvent, PositionVector]] = []
        for event in stored:
            self.seq = event.seq
            if event.offset < self.vector.get((event.topic, event.partition), 0):
                continue
            events = self._events_for(event)
            before = dict(self.vector)
            self.vector[event.topic, event.partition] = event.offset + 1
            pairs += [(e, before) for e in events[:-1] if self._matches(e)]
            pairs += [(e, dict(self.vector)) for e in events[-1:] if self._matches(e)]
        return pairs

    def _events_for(self, event: StoredEvent) -> list[TaskEvent]:
        """What to send for a stored event: nothing, the event, or earlier events of its task and then the event."""
        task = self.store.get_task(event.id)
        if task is None:
            return []  # progress of an unknown task
        first = self.store.first_progress(event.id)
        has_ended = self._passed(_COMPLETED if task.status is Status.COMPLETED else _DEAD, task.ended_place)
        has_progress = has_ended or (first is not None and self._passed(_PROGRESS, first.place))
        has_started = has_progress or self._passed(_STARTED, task.started_place)
        earlier = [] if has_started or self._passed(_RECEIVED, task.received_place) else [task_events.received(task)]
        if event.topic == _RECEIVED:
            return earlier
        if event.topic == _STARTED:
            return [] if has_progress else [*earlier, task_events.started(task)]
        if event.topic == _PROGRESS:
            report = self.store.progress_at(event.id, event.offset)
            if report is None or has_ended:
                return []
            return [
                *earlier,
                *([] if has_started else [task_events.started(task, report.at_ms)]),
                task_events.progress(task, report),
            ]
        return [
            *earlier,
            *([task_events.started(task)] if task.has_started and not has_started else []),
            task_events.ended(task),
        ]

    def _passed(self, topic: int, place: int) -> bool:
        if place < 0:
            return False
        partition, offset = partition_and_offset(place)
        return offset < self.vector.get((topic, partition), 0)

    def _matches(self, event: TaskEvent) -> bool:
        wanted, data = self.task_filter, event.data
        return (
            (not wanted.name or data["name"] == wanted.name)
            and (not wanted.directory or data["directory"] == wanted.directory)
            and (not wanted.status or data["status"] == wanted.status)
        )
