"""Workloads for the fault suite: the tasks to submit, and which of them kill their own process.

They use the example kinds only, so that they run against any installation.
"""

import random
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from headrace.client import tls_context
from headrace.contract.records import Outgoing
from headrace.errors import HeadraceError
from headrace.kafka.sender import Sender

# The kinds that the workloads use, with the parameters that they give.
NEEDED_KINDS = {"prime": ("upper_bound",), "fragile": ("how", "attempts", "seconds")}

_BATCH = 200
_POISON_ATTEMPTS = 100  # above every limit of attempts: it never succeeds


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """One task to submit. A `suicidal` one kills its own process, a `poison` one at every attempt."""

    body: dict[str, Any]
    suicidal: bool = False
    poison: bool = False


def tiny(count: int) -> Iterator[PlannedTask]:
    """Tasks of less than a millisecond."""
    for i in range(count):
        yield PlannedTask({"name": "prime", "payload": {"upper_bound": 50 + i % 50}, "directory": "chaos/tiny"})


def heavy(count: int, rng: random.Random, low_s: float = 2.0, high_s: float = 5.0) -> Iterator[PlannedTask]:
    """Tasks that take `low_s` to `high_s` seconds."""
    for _ in range(count):
        payload = {"attempts": 0, "seconds": round(rng.uniform(low_s, high_s), 2)}
        yield PlannedTask({"name": "fragile", "payload": payload, "directory": "chaos/heavy"})


def mixture(
    count: int, rng: random.Random, heavy_share: float = 0.01, crasher_share: float = 0.02
) -> Iterator[PlannedTask]:
    """Tiny tasks, with shares of heavy ones and of ones that kill their process once, and one poison task."""
    poison_at = rng.randrange(count)
    for i in range(count):
        drawn = rng.random()
        if i == poison_at:
            payload: dict[str, Any] = {"how": "kill", "attempts": _POISON_ATTEMPTS}
            yield PlannedTask(
                {"name": "fragile", "payload": payload, "directory": "chaos/poison"},
                suicidal=True,
                poison=True,
            )
        elif drawn < crasher_share:
            payload = {"how": rng.choice(["kill", "exit"]), "attempts": 1}
            yield PlannedTask({"name": "fragile", "payload": payload, "directory": "chaos/crash"}, suicidal=True)
        elif drawn < crasher_share + heavy_share:
            yield from heavy(1, rng)
        else:
            yield from tiny(1)


@dataclass(slots=True)
class Submitted:
    """The acknowledged tasks, all of which must end."""

    ids: set[str] = field(default_factory=set)
    suicidal: set[str] = field(default_factory=set)
    poison: set[str] = field(default_factory=set)
    refused: int = 0  # answered with an error or not at all: not promised, and submitted again

    def add_task(self, task_id: str, planned: PlannedTask) -> None:
        self.ids.add(task_id)
        if planned.suicidal:
            self.suicidal.add(task_id)
        if planned.poison:
            self.poison.add(task_id)


def submit_native(sender: Sender, planned: Iterable[PlannedTask], into: Submitted) -> list[PlannedTask]:
    """Sends tasks to `tasks.normal` and waits for every acknowledgement; returns the refused ones."""
    pending, refused = [], []
    for p in planned:
        task_id = str(uuid.uuid4())
        pending.append((task_id, p, sender.send(Outgoing("tasks.normal", task_id.encode(), orjson.dumps(p.body)))))
    for task_id, p, future in pending:
        try:
            future.result()
        except HeadraceError:
            refused.append(p)
        else:
            into.add_task(task_id, p)
    into.refused += len(refused)
    return refused


def submit_http(url: str, planned: Iterable[PlannedTask], into: Submitted) -> list[PlannedTask]:
    """Posts tasks to /tasks/batch; returns the refused ones. A batch without an answer counts as refused."""
    left, refused = list(planned), []
    with httpx.Client(base_url=url, timeout=30, verify=tls_context()) as client:
        for start in range(0, len(left), _BATCH):
            refused += _post(client, left[start : start + _BATCH], into)
    into.refused += len(refused)
    return refused


def _post(client: httpx.Client, batch: list[PlannedTask], into: Submitted) -> list[PlannedTask]:
    lines = b"\n".join(orjson.dumps(p.body) for p in batch)
    try:
        answer = client.post("/tasks/batch", content=lines, headers={"Content-Type": "application/x-ndjson"})
        answer.raise_for_status()
        answers = [orjson.loads(line) for line in answer.content.splitlines() if line]
    except (httpx.HTTPError, orjson.JSONDecodeError):
        return batch
    ids = [line.get("id") for line in answers] + [None] * (len(batch) - len(answers))
    for p, task_id in zip(batch, ids, strict=True):
        if task_id:
            into.add_task(task_id, p)
    return [p for p, task_id in zip(batch, ids, strict=True) if not task_id]
