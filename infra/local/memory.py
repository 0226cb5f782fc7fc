"""How much memory each role of an installation takes, for tests and benchmarks (Linux).

Proportional: what processes share is divided among them, so that a role's children count for what they add. The files
behind a process (its code, SQLite's maps) are left out, since the kernel takes them back when it needs the room.
"""

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from agents.execution.resource_limits import anonymous_bytes
from headrace.child.process_tree import descendants, processes

_MIB = 1024 * 1024
_LOOK_S = 0.05


def role_memory(pids: Mapping[str, int]) -> dict[str, float]:
    """MiB of each role's own process, and of all that is below it as `<role> children`; by role -> pid."""
    seen, found = processes(), {}
    for role, pid in pids.items():
        found[role] = anonymous_bytes([pid]) / _MIB
        if children := descendants([pid], seen):
            found[f"{role} children"] = anonymous_bytes(children) / _MIB
    return found


class MemoryPeak:
    """While it is entered it looks at the roles again and again; `peak` is the most that each has taken, in MiB."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids
        self.peak: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            for role, mib in role_memory(self._pids()).items():
                self.peak[role] = max(mib, self.peak.get(role, 0.0))
            if self._ended.wait(_LOOK_S):
                return
