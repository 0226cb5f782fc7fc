"""What handlers depend on, and the look-up of a task that decides between 404 and "not read yet".

The status view reads in batches, up to a second behind, except for what has attention. So a look-up asks Kafka
how far the log goes, and waits for the view to get there: before `find_task` answers 404, and, for a moment, before it
shows a task that has not ended or a list.
"""

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request

from headrace.contract.ids import parse_id
from headrace.contract.records import Place
from headrace.errors import Retryable
from headrace.kafka.log_notes import LogNotes
from headrace.kafka.sender import Sender
from headrace.process.health import Health
from headrace.storage.results_root import ResultsRoot

from ..http.problems import Problem
from ..kafka.broker_probe import BrokerProbe
from ..kafka.receipts import Receipts
from ..kafka.source_reader import SourceReader
from ..metrics import Metrics
from ..statistics_store import StatisticsStore
from ..submission import Submissions
from ..view.attention import Attention
from ..view.cluster import TOPICS as CLUSTER_TOPICS
from ..view.cluster import ClusterView
from ..view.event_topics import EVENT_TOPICS
from ..view.notifier import Notifier
from ..view.projection import TaskView, id_bytes
from ..view.projector import TASK_TOPICS, TOPICS, Projector
from ..view.recent_submissions import RecentSubmissions
from ..view.snapshots import SnapshotWriter
from ..view.store import StatusStore

FORGOTTEN = (
    "the task ended longer ago than gateways remember tasks (HEADRACE_VIEW_DAYS); its result, if it had one, is still "
    "below the results root"
)
FIND_WAIT_S = 2.0  # how long a look-up waits for the view to reach the end of the log before it answers 503
_REFRESH_S = 0.5  # how long one waits that can answer with what the view has
_SETTLED_MS = 10_000  # after its end a task's other records may be a second late, and clocks may differ
_KEEP_S = 3.0  # how long a task that somebody has asked for is followed closely: clients that poll ask again


@dataclass(slots=True, kw_only=True)
class Dependencies:
    """Everything that handlers use; one for each gateway, in `app.state.dependencies`."""

    store: StatusStore
    projector: Projector
    snapshot_writer: SnapshotWriter | None
    cluster: ClusterView
    notifier: Notifier
    attention: Attention
    broker_probe: BrokerProbe
    sender: Sender
    receipts: Receipts
    source_reader: SourceReader
    submissions: Submissions
    health: Health
    metrics: Metrics
    results_root: ResultsRoot
    statistics: StatisticsStore
    log_notes: LogNotes
    recent_submissions: RecentSubmissions = field(default_factory=RecentSubmissions)

    async def find_task(self, text: str, *, fresh: bool = True) -> TaskView:
        """The task whose id a path holds, as of now; with `fresh` False perhaps as of a second ago.

        Problem no-such-task or task-forgotten, or a 503 while the view cannot tell.
        """
        task_id = parse_task_id(text)
        raw = id_bytes(task_id)
        task = self.store.get_task(raw) or self.recent_submissions.find(task_id)
        if task is None:
            await self.catch_up(task_id, submitted_anywhere=True)
            task = self.store.get_task(raw)
        elif fresh and not _is_settled(task):
            places = self._home(task_id)
            await self.refresh(places)
            task = self.store.get_task(raw) or task
            if not task.status.terminal:
                self.attention.keep(places, _KEEP_S)
        if task is None and self.store.is_forgotten(raw):
            raise Problem("task-forgotten", FORGOTTEN)
        if task is None:
            raise no_such_task(text)
        return task

    def event_places(self, task_id: str) -> list[Place]:
        """Where the events of a task are."""
        return [place for place in self._home(task_id) if place[0] in EVENT_TOPICS]

    def _home(self, task_id: str) -> list[Place]:
        """Where all records with the task's id as their key are: replays with the failures of its attempts, too."""
        counts = self.projector.counts
        return sorted(counts.places_of(task_id, TOPICS)) if counts else []

    async def refresh(self, places: Collection[Place]) -> None:
        """Waits until the view has read what these hold now, for half a second at most; not while it catches up, and
        not for what it follows closely."""
        if not self.projector.catching_up.whole() or self.attention.is_close(places):
            return
        try:
            ends = await self.broker_probe.readable_offsets(places)
        except Retryable:
            return
        await self.wait_read(ends, _REFRESH_S)

    async def wait_read(self, ends: Mapping[Place, int], timeout_s: float) -> bool:
        """Whether the view has read up to these ends, within that time; what is missing has attention meanwhile."""
        positions = self.projector.snapshot.positions
        with self.attention.on([place for place, end in ends.items() if positions.get(place, 0) < end]):
            return await self.notifier.wait_until(lambda: self.projector.snapshot.reached(ends), timeout_s)

    async def catch_up(self, task_id: str, *, submitted_anywhere: bool = False) -> None:
        """Waits until the view has read everything that the log holds of the task by now.

        `submitted_anywhere`: the submission may lie in any partition, because its record had no key, a key that is
        spelt otherwise, or a producer with another partitioner. Problem kafka-unavailable, or catching-up after two
        seconds.
        """
        if not self.projector.places:
            raise Problem("catching-up", "the gateway has not read the topics yet: try again in a moment")
        try:
            # Asked anew: another gateway may have submitted the task into a partition that was not there a moment ago.
            counts = await self.broker_probe.partition_counts()
            home = counts.places_of(task_id, TOPICS)
            elsewhere = counts.all_places(TASK_TOPICS) - home if submitted_anywhere else set()
            if not (home | elsewhere) <= set(self.projector.places):
                self.projector.look_soon()
            # At home an open transaction may hide a task that has its 202. What it hides elsewhere never had one.
            ends = await self.broker_probe.readable_offsets(elsewhere) | await self.broker_probe.end_offsets(home)
        except Retryable as e:
            raise Problem("kafka-unavailable", str(e)) from None
        if not await self.wait_read(ends, FIND_WAIT_S):
            raise Problem(
                "catching-up", f"the gateway has not read to the end of the log yet: try again in a moment{self._why()}"
            )

    async def require_whole(self) -> None:
        """Waits for a moment until the view holds what the log holds, as `refresh` does.

        Problem catching-up until the view holds what the log held at its start: a list would lack tasks.
        """
        if not self.projector.catching_up.whole():
            raise Problem("catching-up", f"lists would lack tasks until the gateway has read the log{self._why()}")
        await self.refresh(self.projector.places)

    async def event_ends(self) -> dict[Place, int]:
        """The ends of the topics of events as of now, however far the view has read.

        While Kafka does not answer, the ends that it told last; Problem catching-up when it has told none yet.
        """
        places = [place for place in self.projector.places if place[0] in EVENT_TOPICS]
        if not places:
            raise Problem("catching-up", "the gateway has not read the topics yet: try again in a moment")
        try:
            return await self.broker_probe.readable_offsets(places)
        except Retryable:
            known = self.broker_probe.last_ends
            read = self.projector.snapshot.positions
            return {place: max(known.get(place, 0), read.get(place, 0)) for place in places}

    def _why(self) -> str:
        """What keeps the view from the log's end, for a problem's detail."""
        progress = self.projector.catching_up.check()
        found = [f"it {progress}"] if progress else []
        return "".join(f". {words}" for words in (*found, *self.log_notes.notes()))

    async def catch_up_kinds(self) -> None:
        """Waits up to a second for all kinds and heartbeats that the log holds by now; Problem kafka-unavailable."""
        try:
            ends = await self.broker_probe.end_offsets([(topic, 0) for topic in CLUSTER_TOPICS])
        except Retryable as e:
            raise Problem("kafka-unavailable", str(e)) from None
        for _ in range(40):
            if all(self.cluster.positions.get(partition, 0) >= end for partition, end in ends.items()):
                return
            await asyncio.sleep(0.025)


def _is_settled(task: TaskView) -> bool:
    """Whether the task has ended, and so long ago that the view has everything of it: attempts and progress, too."""
    return task.status.terminal and abs(time.time() * 1000 - task.ended_ms) > _SETTLED_MS


def dependencies_of(request: Request) -> Dependencies:
    found: Dependencies = request.app.state.dependencies
    return found


def parse_task_id(text: str) -> str:
    """The id in its canonical form; Problem no-such-task when it is not a UUID."""
    if (task_id := parse_id(text)) is None:
        raise no_such_task(text)
    return task_id


def no_such_task(text: str) -> Problem:
    return Problem("no-such-task", f"no task has the id {text[:60]!r}: check the id, or list tasks with GET /tasks")
