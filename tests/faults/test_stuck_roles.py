"""I8: a role with a blocked thread, or with lag and offsets that stand still, is not ready until that is over."""

import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing, Source
from headrace.errors import HeadraceError
from headrace.kafka.client import Kafka
from headrace.kafka.groups import RECEIVER_GROUP
from headrace.kafka.lag import EVERY_S
from headrace.kafka.sender import Sender
from headrace.process.health import STALE_S, STUCK_S
from infra.local.cluster import LocalCluster
from infra.local.roles import Role
from infra.local.service import Service
from tests.rigs.core import record, submission
from tests.rigs.http import get

PROMISE_S = 10.0


class Hindered(Role):
    """A role in a process whose working thread stands still while `file` exists."""

    def __init__(self, role: Service, file: Path) -> None:
        assert isinstance(role, Role)
        super().__init__(role.name, role.role, role.settings, role.listens, role.setting, role.log.parent)
        self._file = file

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.faults.processes.stuck_role", self.role, str(self._file)]


def limit(admin: AdminClient, topic: str, size: int) -> None:
    """Makes Kafka refuse batches of the topic with more than `size` bytes."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(10)


def refused(sender: Sender, topic: str) -> bool:
    """Whether the broker applies the limit by now; it learns of it through the controller's log."""
    try:
        sender.send_all([Outgoing(topic, b"key", b"too large")], 10)
    except HeadraceError:
        return True
    return False


def reasons(role: Role) -> list[str]:
    try:
        found: list[str] = get(f"{role.url}/readyz", timeout=5).json()["reasons"]
    except httpx.TransportError as e:
        return [str(e)]
    return found


def wait(reached: Callable[[], bool], what: Callable[[], object]) -> float:
    begun = time.monotonic()
    while not reached():
        assert time.monotonic() - begun < 60, what()
        time.sleep(0.1)
    return time.monotonic() - begun


def says(role: Role, *words: str) -> bool:
    found = reasons(role)
    return all(any(w in reason for reason in found) for w in words)


@pytest.mark.timeout(240)
def test_every_role_says_that_it_is_stuck_and_when_it_is_over(broker: str, prefix: str, tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, bootstrap=broker, prefix=prefix, partitions=2, slots=1)
    stuck = tmp_path / "stuck"
    worker = Hindered(cluster.services["worker-1"], stuck)
    storekeeper = Hindered(cluster.services["storekeeper"], stuck)
    gateway = cluster.services["gateway"]
    assert isinstance(gateway, Role)
    cluster.services |= {"worker-1": worker, "storekeeper": storekeeper}
    with cluster:
        kafka = Kafka(cluster.settings, "test")
        sender = Sender(kafka)
        limit(kafka.admin(), kafka.topic("lifecycle.received"), 10)
        wait(lambda: refused(sender, "lifecycle.received"), lambda: "lifecycle.received still takes records")
        stuck.touch()
        locked = sqlite3.connect(next(tmp_path.glob("gateway-*.sqlite")), isolation_level=None)
        locked.execute("BEGIN EXCLUSIVE")
        sender.send_all([*work()], 20)

        for role, words in (
            (worker, ("the intake has been silent", "group " + kafka.group(RECEIVER_GROUP) + " has stood still")),
            (storekeeper, ("has been at one batch for", "headrace-storekeeper has stood still")),
            (gateway, ("status view",)),
        ):
            took_s = wait(lambda role=role, words=words: says(role, *words), lambda role=role: reasons(role))  # type: ignore[misc]
            print(f"{role.name}: {took_s:.1f} s more")

        locked.execute("ROLLBACK")
        locked.close()
        stuck.unlink()
        limit(kafka.admin(), kafka.topic("lifecycle.received"), 2_097_152)
        for role in (worker, storekeeper, gateway):
            wait(lambda role=role: not reasons(role), lambda role=role: reasons(role))  # type: ignore[misc]
        sender.close()


def work() -> Iterable[Outgoing]:
    """A task for each partition, and an outcome for the storekeeper."""
    body = submission("prime", payload={"upper_bound": 10})
    for partition in (0, 1):
        yield record(value=body, partition=partition)
    task_id = str(uuid.uuid4())
    yield Outcome(
        task_id,
        "completed",
        b"1",
        attempt=1,
        boot="boot",
        node="node",
        source=Source("tasks.normal", 0, 99),
        submitted_ms=1,
        name="prime",
        directory="d",
    ).encode()


def test_the_promised_time_covers_the_interval_of_checks_and_the_answer() -> None:
    assert STALE_S + 1 < PROMISE_S
    assert EVERY_S + STUCK_S + 2 < PROMISE_S
