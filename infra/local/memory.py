"""How much memory each role of an installation takes, for tests and benchmarks (Linux).

Proportional: shared pages are divided among their processes, so a role's children count for what they add. File-backed
pages (code, SQLite's maps) are left out, because the kernel reclaims them when memory is short.
"""

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from headrace.child.process_tree import anonymous_bytes, descendants, processes

_MIB = 1024 * 1024
_SAMPLE_S = 0.05


def role_memory(pids: Mapping[str, int]) -> dict[str, float]:
    """MiB of each role's process, and of all its descendants as `<role> children`. `pids`: role -> pid."""
    seen, found = processes(), {}
    for role, pid in pids.items():
        found[role] = anonymous_bytes([pid]) / _MIB
        if children := descendants([pid], seen):
            found[f"{role} children"] = anonymous_bytes(children) / _MIB
    return found


class MemoryPeak:
    """A context manager that samples the roles' memory; `peak` is the largest sample of each, in MiB."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids
        self.peak: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            for role, mib in role_memory(self._pids()).items():
                self.peak[role] = max(mib, self.peak.get(role, 0.0))
            if self._ended.wait(_SAMPLE_S):
                return
