"""The conservation check on a real journal: a claim that no part of the node knows, and an attempt without a claim."""

from collections.abc import Iterator

import pytest

from agents.execution.job import Key
from agents.worker.conservation import LIMIT_S, Conservation
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.rigs.core import PATIENCE_S, Core, Log, cores, record


class Watched:
    """A node's core, and the check with a clock and with books that the test keeps."""

    def __init__(self, core: Core) -> None:
        self.core, self.now = core, 0.0
        self.held: set[Key] = set()
        self.attempts: set[Key] = set()
        self.trouble: str | None = None
        self.check = Conservation(
            lambda: core.delegation.open_claims.of_boot(core.node.boot),
            lambda: self.held,
            lambda: self.attempts,
            read_journal=lambda _: core.delegation.wait_caught_up(PATIENCE_S),
            trouble=lambda: self.trouble,
            metrics=core.metrics,
            clock=lambda: self.now,
        )

    async def after(self, seconds: float) -> str | None:
        await self.check.look()
        self.now += seconds
        await self.check.look()
        return self.check.check()

    def count(self, what: str) -> int:
        value = self.core.metrics.registry.get_sample_value("headrace_worker_unaccounted_total", {"what": what})
        return int(value or 0)


@pytest.fixture
def node(kafka_settings: Settings, topics: str) -> Iterator[Watched]:
    core = Core(kafka_settings)
    with cores(core):
        yield Watched(core)


async def test_a_claim_that_no_part_knows_is_said_within_a_minute_and_no_longer_when_it_ends(
    node: Watched, sender: Sender, kafka_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    sender.send_all([record()])
    [job] = node.core.wait_jobs(1)
    assert node.core.delegation.wait_caught_up(PATIENCE_S)
    assert LIMIT_S < 60
    assert await node.after(LIMIT_S - 1) is None, "too early: an open claim may be between two parts"
    assert await node.after(1) == (
        f"claims are open whose tasks no part of the node knows (1, such as {job.claim.key}): "
        "restart the node, and they run again"
    )
    assert await node.after(100) is not None
    assert node.count("claim") == 1
    assert str(job.claim.key) in caplog.text
    node.core.end(job)
    Log(kafka_settings).wait_no_claims()
    assert node.core.delegation.wait_caught_up(PATIENCE_S)
    assert await node.after(0) is None


async def test_a_claim_whose_job_a_part_holds_is_accounted_for(node: Watched, sender: Sender) -> None:
    sender.send_all([record()])
    [job] = node.core.wait_jobs(1)
    assert node.core.delegation.wait_caught_up(PATIENCE_S)
    node.held = node.attempts = {job.key}
    assert await node.after(2 * LIMIT_S) is None
    node.held = node.attempts = set()  # now it is lost
    assert await node.after(2 * LIMIT_S) is not None
    node.core.end(job)


async def test_an_attempt_whose_claim_was_ended_is_said(
    node: Watched, sender: Sender, kafka_settings: Settings
) -> None:
    sender.send_all([record()])
    [job] = node.core.wait_jobs(1)
    node.held = node.attempts = {job.key}
    sender.send_all([job.claim.tombstone("done")])
    Log(kafka_settings).wait_no_claims()
    assert node.core.delegation.wait_caught_up(PATIENCE_S)
    said = await node.after(2 * LIMIT_S)
    assert said is not None
    assert said.startswith("attempts run here whose claims are not in the journal (1, such as " + job.task.id)
    assert (node.count("attempt"), node.count("claim")) == (1, 0)
    node.core.end(job)


async def test_nothing_is_said_while_kafka_refuses_what_would_end_the_claim(node: Watched, sender: Sender) -> None:
    sender.send_all([record()])
    [job] = node.core.wait_jobs(1)
    assert node.core.delegation.wait_caught_up(PATIENCE_S)
    node.trouble = "Kafka refuses records"
    assert await node.after(2 * LIMIT_S) is None
    node.trouble = None
    assert await node.after(0) is not None
    node.core.end(job)


async def test_what_the_intake_has_in_hand_is_held(kafka_settings: Settings, topics: str, sender: Sender) -> None:
    seen: list[tuple[int, int]] = []
    core = Core(kafka_settings, failpoint=lambda step: seen.append((step == "before commit", len(core.intake.held()))))
    with cores(core):
        sender.send_all([record()])
        [job] = core.wait_jobs(1)
        core.end(job)
        while core.intake.held():
            pass
    assert (True, 1) in seen
