"""The gateway's parts, as handlers reach them, and the look-up that may say that there is no such task.

`find` is what stands between a 404 and a task that was just submitted: before it gives up it reads on to where the log
ended when it was asked.
"""

import asyncio
import uuid
from dataclasses import dataclass, field

from starlette.requests import Request

from gateway.http.problems import Problem
from gateway.kafka.broker_probe import BrokerProbe
from gateway.kafka.source_reader import SourceReader
from gateway.metrics import Metrics
from gateway.statistics_store import StatisticsStore
from gateway.submission import Submissions
from gateway.view.cluster import TOPICS as CLUSTER_TOPICS
from gateway.view.cluster import ClusterView
from gateway.view.notifier import Notifier
from gateway.view.projection import TaskView, id_bytes
from gateway.view.projector import TOPICS, Projector
from gateway.view.recent_submissions import RecentSubmissions
from gateway.view.store import StatusStore
from headrace.errors import Retryable
from headrace.kafka.client import Sender
from headrace.kafka.partitioner import partition_of
from headrace.process.health import Health
from headrace.storage.results_root import ResultsRoot

FIND_WAIT_S = 2.0  # how long a miss waits for the view to reach the end of the log before it says "ask again"


@dataclass(slots=True)
class Dependencies:
    """Everything that handlers use; one a gateway, in `app.state.parts`."""

    store: StatusStore
    view: Projector
    cluster: ClusterView
    feed: Notifier
    reach: BrokerProbe
    sender: Sender
    sources: SourceReader
    submissions: Submissions
    health: Health
    metrics: Metrics
    results: ResultsRoot
    statistics: StatisticsStore
    acknowledged: RecentSubmissions = field(default_factory=RecentSubmissions)

    async def find(self, text: str) -> TaskView:
        """The row of a task id as it stands in a path; Problem no-such-task, or 503 when that cannot be said yet."""
        task_id = canonical_id(text)
        row = self.store.row(id_bytes(task_id))
        if row is not None:
            return row
        if (ends := self.acknowledged.ends(task_id)) is not None:
            await self.feed.until(lambda: self.view.snapshot.reached(ends), FIND_WAIT_S / 2)
            row = self.store.row(id_bytes(task_id))
        if row is None:
            await self.read_on(task_id)
            row = self.store.row(id_bytes(task_id))
        if row is None:
            raise no_such_task(text)
        return row

    async def read_on(self, task_id: str) -> None:
        """Waits until the view has read all that the log says of an id by now; Problem 503 when it takes too long."""
        if not self.view.partitions:
            raise Problem("catching-up", "the topics have not been read yet")
        partition = partition_of(task_id.encode(), self.view.partitions)
        try:
            ends = await self.reach.ends([(topic, partition) for topic in TOPICS])
        except Retryable as e:
            raise Problem("kafka-unavailable", str(e)) from None
        if not await self.feed.until(lambda: self.view.snapshot.reached(ends), FIND_WAIT_S):
            raise Problem("catching-up", "the status view has not read to the end of the log yet")

    async def read_kinds(self) -> None:
        """Waits, shortly, until all kinds and heartbeats announced by now are known."""
        try:
            ends = await self.reach.ends([(topic, 0) for topic in CLUSTER_TOPICS])
        except Retryable as e:
            raise Problem("kafka-unavailable", str(e)) from None
        for _ in range(40):
            if all(self.cluster.positions.get(place, 0) >= end for place, end in ends.items()):
                return
            await asyncio.sleep(0.025)


def parts_of(request: Request) -> Dependencies:
    found: Dependencies = request.app.state.parts
    return found


def canonical_id(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise no_such_task(text) from None


def no_such_task(text: str) -> Problem:
    return Problem("no-such-task", f"there is no task with the id {text[:60]!r}")
