"""The node's figures are right, and their memory is bounded."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from agents.execution.job import AttemptEnd, Job
from agents.monitoring.stats import BUCKETS, NodeStats
from agents.monitoring.wait_metrics import WaitMetrics
from headrace.contract.cluster import KindInfo, Wait
from headrace.contract.journal import Claim
from headrace.contract.records import Source
from headrace.contract.states import Cause
from headrace.contract.submission import Submission
from headrace.contract.task import Task
from tests.rigs.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000.0)


@pytest.fixture
def stats(clock: Clock) -> NodeStats:
    return NodeStats(clock)


def job(name: str = "prime", attempt: int = 1) -> Job:
    task = Task(
        "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11",
        b"{}",
        attempt=attempt,
        source=Source("tasks.normal", 0, 0),
        submitted_ms=0,
    )
    kind = KindInfo(name, {}, timeout_s=10.0, max_attempts=3)
    return Job(Claim((task,), by="b", for_="b", generation=1, node="n"), task, Submission(name, {}, "demo"), kind)


def end(ms: int = 100, **values: Any) -> AttemptEnd:
    return AttemptEnd(1_000, 1_000 + ms, **values)


def test_attempts_are_counted_by_kind_and_by_how_they_ended(stats: NodeStats) -> None:
    stats.count_attempt(job(), end(value=b"1"))
    stats.count_attempt(job(), end(cause=Cause.TIMEOUT))
    stats.count_attempt(job(attempt=2), end(cause=Cause.TIMEOUT))
    stats.count_attempt(job("other"), end(value=b"1"))
    prime = stats.kinds["prime"]
    assert (prime.done, prime.failed, prime.retried, prime.causes) == (1, 2, 1, {"timeout": 2})
    assert stats.kinds["other"].done == 1
    counted = {(s.labels["name"], s.labels["end"]): s.value for s in samples(stats, "headrace_attempts_total")}
    assert counted == {("prime", "completed"): 1, ("prime", "timeout"): 2, ("other", "completed"): 1}


def test_percentiles_are_of_run_times_by_nearest_rank(stats: NodeStats) -> None:
    assert stats.kinds == {}
    for ms in range(100, 0, -1):
        stats.count_attempt(job(), end(ms))
    prime = stats.kinds["prime"]
    assert [prime.percentile(p) for p in (0.5, 0.9, 0.99, 1.0)] == [0.05, 0.09, 0.099, 0.1]
    stats.count_attempt(job("broken"), end(cause=Cause.ERROR))
    assert stats.kinds["broken"].percentile(0.5) is None


def test_run_times_kept_are_the_newest_thousand(stats: NodeStats) -> None:
    for ms in range(2_500):
        stats.count_attempt(job(), end(ms))
    seconds = stats.kinds["prime"].seconds
    assert (len(seconds), seconds[0]) == (1000, 1.5)


def test_the_history_has_no_gaps_and_ten_minutes_at_most(stats: NodeStats, clock: Clock) -> None:
    stats.count_attempt(job(), end())
    clock.now += 12
    stats.count_attempt(job(), end(cause=Cause.ERROR))
    assert [(b.at - 1_000_000, b.done, b.failed) for b in stats.history()] == [(0, 1, 0), (5, 0, 0), (10, 0, 1)]
    for _ in range(400):
        clock.now += 5
        stats.sample(1, 2, None)
    assert len(stats.history()) == BUCKETS
    clock.now += 10_000_000
    assert [b.done for b in stats.history()] == [0]


def test_slots_are_averaged_over_a_bucket_and_the_backlog_is_the_last_known(stats: NodeStats) -> None:
    for used in (0, 1, 2):
        stats.sample(used, 4, {"tasks.normal": 5 + used, "tasks.high": 1})
    (bucket,) = stats.history()
    assert (bucket.used, bucket.waiting) == (1.0, 8)
    assert {s.labels["state"]: s.value for s in samples(stats, "headrace_slots")} == {"used": 2, "free": 2}
    assert {s.labels["topic"]: s.value for s in samples(stats, "headrace_waiting_tasks")} == {
        "tasks.normal": 7,
        "tasks.high": 1,
    }
    stats.sample(0, 4, None)
    assert stats.history()[0].waiting is None


def samples(stats: NodeStats, name: str) -> list[Any]:
    return [s for metric in stats.registry.collect() for s in metric.samples if s.name == name]


def test_what_stands_still_is_in_the_metrics_by_reason_and_kind_and_since_when() -> None:
    waits = [
        Wait("head", "rare", "a", 990_000, "…"),
        Wait("head", "rare", "b", 970_000, "…"),
        Wait("aside", "rare", "c", 995_000, "…", count=40),
    ]
    registry = CollectorRegistry()
    registry.register(WaitMetrics(lambda: waits, clock=lambda: 1000.0))
    found = {
        (name, why): registry.get_sample_value(f"headrace_worker_{name}", {"why": why, "name": "rare"})
        for name in ("standing_still", "standing_still_seconds")
        for why in ("head", "aside", "alone")
    }
    assert found == {
        ("standing_still", "head"): 2,
        ("standing_still", "aside"): 40,
        ("standing_still", "alone"): None,
        ("standing_still_seconds", "head"): 30,
        ("standing_still_seconds", "aside"): 5,
        ("standing_still_seconds", "alone"): None,
    }
