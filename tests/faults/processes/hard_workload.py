"""Tasks that behave as badly as they can, among the others of the fault suite. Each must end without harm to others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.kinds import example_files
from infra.chaos.workloads import PlannedTask

KINDS = Path(__file__).parents[2] / "rigs/hard_tasks.py"
TASKS = ",".join([*example_files(), str(KINDS)])  # HEADRACE_TASKS

# kind, payload, time limit: none of them can complete
_DEAD: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("takes_memory", {"megabytes": 200}, 60.0),
    ("ignores_sigterm", {}, 0.5),
    ("exits", {"code": 0}, 60.0),
    ("segfaults", {}, 60.0),
    ("leaves", {"code": 3}, 60.0),
    ("interrupts", {}, 60.0),
    ("no_json", {}, 60.0),
    ("hostile_error", {}, 60.0),
    ("closes_descriptors", {}, 60.0),
    ("speaks_to_the_node", {"words": "00" * 64}, 60.0),
    ("file_elsewhere", {}, 60.0),
)
_DONE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("prints", {"lines": 20_000}),
    ("many_bytes", {"size": 2_000_000}),
    ("file_in_scratch", {}),
)


def hard() -> Iterator[PlannedTask]:
    """One task of each kind."""
    for name, payload, timeout_s in _DEAD:
        body = _body(name, payload) | {"timeout_s": timeout_s, "max_attempts": 1}
        yield PlannedTask(body, suicidal=True, poison=True)
    for name, payload in _DONE:
        yield PlannedTask(_body(name, payload))


def _body(name: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "payload": payload, "directory": "chaos/hard"}
