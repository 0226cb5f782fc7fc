"""Lifecycle records of invented tasks, for training runs of the statistics and for their benchmark."""

from headrace.contract.lifecycle import received_event, started_event
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing
from headrace.contract.task import Task


def completed_task(
    task: Task, name: str, node: str, *, started_ms: int, ended_ms: int, size: int, offset: int
) -> list[Outgoing]:
    """The records of a task with one attempt: received, started, completed.

    `size` is that of the result in bytes, `offset` that of its outcome record; times are ms since the epoch.
    """
    outcome = Outcome(
        task.id,
        "completed",
        b"",
        attempt=1,
        boot="boot",
        node=node,
        source=task.source,
        submitted_ms=task.submitted_ms,
        name=name,
        directory="demo",
        started_ms=started_ms,
        ended_ms=ended_ms,
        offset=offset,
    )
    return [
        received_event(task, name, "demo", "http"),
        started_event(task, name, "demo", node, "boot"),
        outcome.completed_event(f"demo/{task.id}.json", size, "ab" * 32),
    ]
