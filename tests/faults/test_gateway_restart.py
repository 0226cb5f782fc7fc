"""`headrace events` and `submit --wait` outlive a gateway that is killed or ended: nothing missed, nothing twice."""

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from headrace.kafka.sender import Sender
from infra.chaos.installation import Installation, kill
from infra.chaos.workloads import PlannedTask, Submitted, submit_native
from infra.local.cluster import LocalCluster
from tests.rigs.http import get

TIMEOUT_S = 60.0


class Command:
    """A `headrace` command that runs in a process; its JSON lines, and what it says on stderr."""

    def __init__(self, cluster: LocalCluster, *arguments: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.words: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "headrace.cli.main", *arguments, "--http", cluster.settings.http, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read_events, daemon=True).start()
        threading.Thread(target=self._read_words, daemon=True).start()

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            self.events.extend(json.loads(line) for line in out)

    def _read_words(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as err:
            self.words.extend(err)

    def heard(self) -> Counter[tuple[str, str]]:
        return Counter((e["event"], e["id"]) for e in self.events if e["event"] != "progress")


@contextmanager
def command(cluster: LocalCluster, *arguments: str) -> Iterator[Command]:
    running = Command(cluster, *arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def wait(until: Callable[[], bool], why: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not until():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def listeners(cluster: LocalCluster) -> float:
    lines = get(f"{cluster.gateway_url}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("headrace_gateway_listeners ")).split()[1])


def produce(installation: Installation, directory: str, count: int) -> set[str]:
    """Sends tasks straight to Kafka, so that no gateway is needed; returns their ids."""
    sender, sent = Sender(installation.kafka), Submitted()
    body = {"name": "prime", "payload": {"upper_bound": 50}, "directory": directory}
    try:
        assert submit_native(sender, [PlannedTask(body)] * count, sent) == []
    finally:
        sender.close()
    return sent.ids


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
def test_a_listener_hears_everything_once_although_the_gateway_restarts(
    product: LocalCluster, installation: Installation, number: int
) -> None:
    directory = f"listen/{uuid.uuid4().hex[:8]}"
    wait(lambda: listeners(product) == 0, lambda: "a listener of the test before is still there")
    with command(product, "events", "--directory", directory) as listening:
        wait(lambda: listeners(product) >= 1, lambda: listening.words)
        ids: set[str] = set()
        for _ in range(2):  # once before it has heard anything, and once afterwards
            gateway = product.pid("gateway")
            kill(gateway, number)
            ids |= produce(installation, directory, 20)
            installation.wait_role("gateway", not_pid=gateway)
            ids |= produce(installation, directory, 20)
            expected = {(event, i) for event in ("received", "started", "completed") for i in ids}
            wait(
                lambda expected=expected: expected <= set(listening.heard()),  # type: ignore[misc]
                lambda expected=expected: (len(expected), len(listening.heard()), listening.words),  # type: ignore[misc]
            )
        assert set(listening.heard()) == expected
        assert set(listening.heard().values()) == {1}
        assert sum("trying again" in line for line in listening.words) == 2, listening.words
        assert sum("connected again" in line for line in listening.words) == 2, listening.words


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
def test_submit_waits_for_its_task_although_the_gateway_restarts(
    product: LocalCluster, installation: Installation, number: int
) -> None:
    payload = json.dumps({"attempts": 0, "seconds": 4})
    with command(product, "submit", "fragile", payload, "-d", "waiting", "--wait") as waiting:
        wait(lambda: any(e["event"] == "progress" for e in waiting.events), lambda: waiting.words)
        gateway = product.pid("gateway")
        kill(gateway, number)
        installation.wait_role("gateway", not_pid=gateway)
        assert waiting.process.wait(TIMEOUT_S) == 0
    [task_id] = {e["id"] for e in waiting.events}
    assert waiting.heard() == Counter({(event, task_id): 1 for event in ("received", "started", "completed")})
    fractions = [e["fraction"] for e in waiting.events if e["event"] == "progress"]
    assert fractions == sorted(set(fractions))
    assert sum("trying again" in line for line in waiting.words) == 1, waiting.words


@pytest.mark.timeout(120)
def test_a_task_that_fails_or_is_cancelled_is_exit_code_3(product: LocalCluster) -> None:
    with command(product, "submit", "fragile", '{"how": "kill", "attempts": 100}', "--wait") as failing:
        assert failing.process.wait(TIMEOUT_S) == 3
    with command(product, "submit", "fragile", '{"attempts": 0, "seconds": 60}', "--wait") as cancelled:
        wait(lambda: bool(cancelled.events), lambda: cancelled.words)
        httpx.delete(f"{product.gateway_url}/tasks/{cancelled.events[0]['id']}", verify=False)
        assert cancelled.process.wait(TIMEOUT_S) == 3
