"""The worker agent, its pool and the stats page in a real Faust app on a real broker."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest_asyncio

from agents.execution.job import AttemptEnd, Job
from agents.execution.pool import Pool
from agents.execution.slots import Slots
from agents.faust_kit.app import make_app, running
from agents.faust_kit.health_routes import add_health_routes
from agents.monitoring.stats import NodeStats
from agents.monitoring.stats_page import NodeView, add_stats_page
from agents.worker.agent import Worker
from headrace.contract.cluster import KindInfo
from headrace.contract.journal import Claim
from headrace.contract.records import Source
from headrace.contract.states import Cause
from headrace.contract.submission import Submission
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.groups import RECEIVER_GROUP
from headrace.process.health import Health
from headrace.settings import Settings
from infra.local.process import free_port

HARD = str(Path(__file__).parents[3] / "rigs" / "hard_tasks.py")


@dataclass
class Ends:
    """A finisher that collects what the agent reports."""

    begun: list[str] = field(default_factory=list)
    ended: list[tuple[Job, AttemptEnd]] = field(default_factory=list)
    trouble: list[Exception] = field(default_factory=list)  # what the next calls of `finish` raise

    def started(self, job: Job) -> None:
        self.begun.append(job.task.id)

    async def finish(self, job: Job, end: AttemptEnd) -> None:
        if self.trouble:
            raise self.trouble.pop()
        self.ended.append((job, end))

    async def finish_completed(self, ended: Sequence[tuple[Job, AttemptEnd]]) -> Sequence[tuple[Job, AttemptEnd]]:
        return ended  # all are left to `finish`

    async def until(self, count: int, timeout_s: float = 60.0) -> list[AttemptEnd]:
        async with asyncio.timeout(timeout_s):
            while len(self.ended) < count:  # noqa: ASYNC110 - the agent under test knows of no event of ours
                await asyncio.sleep(0.01)
        return [end for _, end in self.ended]


@dataclass
class Node:
    app: Any
    worker: Worker
    slots: Slots
    pool: Pool
    ends: Ends
    health: Health
    url: str
    kinds: dict[str, KindInfo]
    state: list[str]
    cancelled: set[str]

    def job(self, name: str, **payload: Any) -> Job:
        submission = Submission(name, payload, "demo")
        task = Task(
            str(uuid.uuid4()),
            orjson.dumps({"name": name}),
            attempt=1,
            source=Source("tasks.normal", 0, 0),
            submitted_ms=0,
        )
        return Job(
            Claim((task,), by="boot", for_="boot", generation=1, node="node"), task, submission, self.kinds[name]
        )

    async def hand_over(self, *jobs: Job) -> None:
        """Does what the intake's thread does."""
        for job in jobs:
            assert await asyncio.to_thread(self.slots.reserve, 1) == 1
            await asyncio.to_thread(self.worker.hand_over, [job])


@pytest_asyncio.fixture
async def node(kafka_settings: Settings, topics: str, tmp_path: Path) -> AsyncIterator[Node]:
    kafka = Kafka(kafka_settings, "worker-test")
    http = f"127.0.0.1:{free_port()}"
    slots, stats, ends, health, state = Slots(2), NodeStats(), Ends(), Health(), ["ready"]
    pool = Pool(HARD, 2, tmp_path / "pool")
    kinds = await asyncio.to_thread(pool.start)
    app = make_app(RECEIVER_GROUP, kafka_settings, kafka, http, tmp_path)
    cancelled = set[str]()
    worker = Worker(slots, pool, ends, stats, is_cancelled=lambda task_id: task_id in cancelled)
    worker.attach(app)
    view = NodeView(
        node="test-node",
        boot=lambda: "5d3c3f7f-0a11-4a86-9a3a",
        pid=1,
        started_ms=lambda: int(time.time() * 1000),
        slots=2,
        used=lambda: slots.used,
        running=pool.running,
        draining=lambda: state[0] == "draining",
        health=health,
        stats=stats,
        waiting=lambda: {"tasks.normal": 7, "tasks.high": 1},
        waiting_age_s=lambda: 0.4,
        partitions=lambda: [("tasks.normal", 1), ("tasks.normal", 0)],
        limits_s={k.name: k.timeout_s for k in kinds},
    )
    add_stats_page(app, view)
    add_health_routes(app, health, stats.registry)
    pool.listen()
    async with running(app):
        await asyncio.to_thread(slots.wait_free, 10)
        yield Node(
            app, worker, slots, pool, ends, health, f"http://{http}", {k.name: k for k in kinds}, state, cancelled
        )
    await pool.close()


async def test_the_agent_runs_its_jobs_and_releases_their_slots(node: Node) -> None:
    await node.hand_over(node.job("echo", value="a"), node.job("raises", message="b"))
    ends = {e.cause: e for e in await node.ends.until(2)}
    assert ends[None].value == b"a"
    assert ends[Cause.ERROR].detail.endswith("ValueError: b")
    assert node.slots.free == 2


async def test_an_attempt_whose_end_cannot_be_reported_is_lost_and_not_running_for_ever(node: Node) -> None:
    node.ends.trouble.append(OSError(5, "Input/output error"))
    await node.hand_over(node.job("many_bytes", size=200_000))
    [end] = await node.ends.until(1)
    assert (end.cause, end.begun, end.result_file) == (Cause.NODE_LOSS, True, None)
    assert end.detail == "the node could not report how the attempt ended: OSError: [Errno 5] Input/output error"


async def test_attempts_run_beside_each_other(node: Node) -> None:
    await node.hand_over(node.job("sleeps", seconds=0.6), node.job("sleeps", seconds=0.6))
    assert node.slots.free == 0
    ends = await node.ends.until(2)
    assert max(e.started_ms for e in ends) < min(e.ended_ms for e in ends)


async def test_members_behind_a_slow_one_of_a_micro_batch_move_to_the_next_free_slot(node: Node) -> None:
    assert node.slots.reserve(1) == 1
    node.worker.hand_over([node.job("sleeps", seconds=60.0), *(node.job("echo", value=v) for v in "ab")])
    assert {e.value for e in await node.ends.until(2)} == {b"a", b"b"}
    assert [r.name for r in node.pool.running()] == ["sleeps"]
    assert node.slots.used == 1


async def test_a_member_of_a_micro_batch_cancelled_before_its_turn_never_begins(node: Node) -> None:
    cancelled = node.job("echo", value="never")
    node.cancelled.add(cancelled.task.id)
    assert node.slots.reserve(1) == 1
    node.worker.hand_over([node.job("echo", value="a"), cancelled, node.job("echo", value="b")])
    ends = await node.ends.until(3)
    assert [(e.value, e.begun) for e in ends if e.cause is None] == [(b"a", True), (b"b", True)]
    assert [(e.detail, e.begun) for e in ends if e.cause is not None] == [("cancelled", False)]


async def test_a_stopped_agent_kills_running_attempts_and_no_slot_can_be_reserved(node: Node) -> None:
    await node.hand_over(node.job("sleeps", seconds=60.0))
    async with asyncio.timeout(5):
        while not node.pool.running():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await node.app.agents["worker"].stop()
    async with asyncio.timeout(5):
        while node.pool.running():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert node.slots.free == 0
    assert node.slots.reserve(1) == 0


async def test_a_rebalance_of_the_app_loses_no_job_that_was_handed_over(node: Node) -> None:
    await node.hand_over(node.job("sleeps", seconds=0.5), node.job("sleeps", seconds=0.5))
    node.app.flow_control.suspend()
    node.app.flow_control.resume()
    assert {e.value for e in await node.ends.until(2)} == {b"slept"}


async def test_drain_waits_for_attempts_that_end_in_time_and_kills_the_rest(node: Node) -> None:
    await node.hand_over(node.job("sleeps", seconds=0.3), node.job("sleeps", seconds=60.0))
    began = time.monotonic()
    await node.worker.drain(1.0)
    assert 1.0 <= time.monotonic() - began < 30  # the other sleeps for 60
    assert sorted(str(e.cause) for e in await node.ends.until(2)) == ["None", "drain"]


async def test_the_stats_say_what_runs_waits_and_is_done(node: Node) -> None:
    await node.hand_over(node.job("echo", value="a"), node.job("exits", code=3))
    await node.ends.until(2)
    await node.hand_over(long := node.job("sleeps", seconds=60.0))
    async with httpx.AsyncClient(base_url=node.url) as http, asyncio.timeout(20):
        stats = (await http.get("/stats.json")).json()
        while not stats["running"] or stats["slots"]["used"] > 1:  # the slot of the dead child gets a new one first
            stats = (await http.get("/stats.json")).json()
    kinds = {k["name"]: k for k in stats["kinds"]}
    assert stats["node"] == "test-node"
    assert stats["slots"] == {"total": 2, "used": 1, "free": 1}
    assert (stats["running"][0]["id"], stats["running"][0]["name"]) == (long.task.id, "sleeps")
    assert 0 <= stats["running"][0]["runs_s"] < 20
    assert (stats["waiting"]["normal"], stats["waiting"]["high"]) == (7, 1)
    assert (kinds["echo"]["done"], kinds["exits"]["causes"]) == (1, {"process-death": 1})
    assert kinds["echo"]["p99_s"] < 5
    assert kinds["segfaults"]["done"] == 0
    assert stats["partitions"] == {"tasks.normal": [0, 1]}
    assert sum(b["done"] for b in stats["history"]["items"]) == 1
    assert stats["state"] == "ready"


async def test_the_port_serves_only_our_pages_and_says_when_the_node_is_not_ready(node: Node) -> None:
    async with httpx.AsyncClient(base_url=node.url) as http:
        page = await http.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "script-src 'self'" in page.headers["content-security-policy"]
        for path in ("/stats.js", "/stats.css", "/healthz", "/readyz", "/metrics"):
            assert (await http.get(path)).status_code == 200, path
        for path in ("/router", "/router/", "/table", "/table/", "/graph", "/performance"):
            assert (await http.get(path)).status_code == 404, path
        assert (await http.get("/", headers={"Host": "evil.example"})).status_code == 403
        node.health.add_check("kafka", lambda: "away")
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["kafka: away"])
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/stats.json")).json()["state"] == "not ready"
        node.state[0] = "draining"
        assert (await http.get("/stats.json")).json()["state"] == "draining"
        assert "headrace_attempts_total" in (await http.get("/metrics")).text
