"""The stream of all tasks: from one vector of positions to the next, by the vector and the store alone.

A stored event is told if no successor of its task lies behind the vector, and after those of its predecessors that the
vector has not passed. So every gateway, whatever the order in which it has read, tells a client that resumes with the
positions it was at the rest of every task: nothing missed, nothing twice.
"""

from dataclasses import dataclass, field

from gateway.view import task_events
from gateway.view.position_vector import Vector
from gateway.view.projection import partition_and_offset
from gateway.view.store import EVENT_TOPICS, Filter, StatusStore, StoredEvent
from gateway.view.task_events import TaskEvent
from headrace.contract.states import Status

_RECEIVED, _STARTED, _PROGRESS, _COMPLETED, _DEAD = range(len(EVENT_TOPICS))


@dataclass(slots=True)
class EventStream:
    """One listener's place: the vector it has been told up to, and the stored event that this gateway looks at next."""

    store: StatusStore
    vector: Vector
    seq: int
    wanted: Filter = field(default_factory=Filter)

    @classmethod
    def resume(cls, store: StatusStore, vector: Vector, last_seq: int, wanted: Filter) -> "EventStream":
        """At the first stored event that the vector has not passed; at `last_seq`, read before, when there is none."""
        before = [store.seq_before(topic, partition, n) for (topic, partition), n in vector.items()]
        return cls(store, vector, min([s for s in before if s is not None], default=last_seq), wanted)

    def next(self, limit: int = 200) -> list[tuple[TaskEvent, Vector]] | None:
        """What follows, each with the vector after it; empty when none of it is wanted, None when there is no more yet.

        Predecessors that are told with their successor carry the vector before it, so that none is lost when a client
        goes away between the two.
        """
        found = self.store.events_after(self.seq, limit)
        if not found:
            return None
        pairs: list[tuple[TaskEvent, Vector]] = []
        for event in found:
            self.seq = event.seq
            if event.offset < self.vector.get((event.topic, event.partition), 0):
                continue
            told = self._tell(event)
            before = dict(self.vector)
            self.vector[event.topic, event.partition] = event.offset + 1
            pairs += [(t, before) for t in told[:-1] if self._wants(t)]
            pairs += [(t, dict(self.vector)) for t in told[-1:] if self._wants(t)]
        return pairs

    def _tell(self, event: StoredEvent) -> list[TaskEvent]:
        row = self.store.row(event.id)
        if row is None:
            return []  # progress of a task that nobody knows
        first = self.store.first_progress(event.id)
        has_ended = self._passed(_COMPLETED if row.status is Status.COMPLETED else _DEAD, row.ended_place)
        has_progress = has_ended or (first is not None and self._passed(_PROGRESS, first.place))
        has_started = has_progress or self._passed(_STARTED, row.started_place)
        told = [] if has_started or self._passed(_RECEIVED, row.received_place) else [task_events.received(row)]
        if event.topic == _RECEIVED:
            return told
        if event.topic == _STARTED:
            return [] if has_progress else [*told, task_events.started(row)]
        if event.topic == _PROGRESS:
            report = self.store.progress_at(event.id, event.offset)
            if report is None or has_ended:
                return []
            return [
                *told,
                *([] if has_started else [task_events.started(row, report.at_ms)]),
                task_events.progress(row, report),
            ]
        return [
            *told,
            *([task_events.started(row)] if row.has_started and not has_started else []),
            task_events.ended(row),
        ]

    def _passed(self, topic: int, place: int) -> bool:
        if place < 0:
            return False
        partition, offset = partition_and_offset(place)
        return offset < self.vector.get((topic, partition), 0)

    def _wants(self, told: TaskEvent) -> bool:
        w, d = self.wanted, told.data
        return (
            (not w.name or d["name"] == w.name)
            and (not w.directory or d["directory"] == w.directory)
            and (not w.status or d["status"] == w.status)
        )
