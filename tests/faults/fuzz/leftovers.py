"""What a pool's attempts may have left on the machine, and what the pool itself takes. Read from /proc and the disk."""

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path

from headrace.child.process_tree import descendants, processes

_PATIENCE_S = 20.0
MARK = "FUZZ_MARK"  # environment variable that everything below the pool inherits


class Leftovers:
    """Compares with the state in which it was made. `mark` is the value of MARK, and in the name of what has names."""

    def __init__(self, pool_folder: Path, mark: str) -> None:
        self._folder, self._mark = pool_folder, mark
        self._before = self._look()

    async def complaints(self) -> list[str]:
        """What there is more of than before, once nothing goes away any more."""
        deadline = time.monotonic() + _PATIENCE_S
        while more := self._more():
            if time.monotonic() > deadline:
                return [f"{name} left: {found}" for name, found in more.items()]
            await asyncio.sleep(0.05)
        return []

    def megabytes(self) -> dict[str, float]:
        """Memory of this process and of all below it, shared pages counted once."""
        below = descendants([os.getpid()], processes())
        return {"node": round(_pss_mb(os.getpid()), 1), "children": round(sum(map(_pss_mb, below)), 1)}

    def _more(self) -> dict[str, object]:
        now, more = self._look(), dict[str, object]()
        for name, before in self._before.items():
            if len(now[name]) > len(before):
                more[name] = sorted(now[name] - before)[:10]
        return more

    def _look(self) -> dict[str, set[str]]:
        return {
            "processes": set(map(_describe, self._processes())),
            "threads": {f"{t.ident} {t.name}" for t in threading.enumerate() if "asyncio_" not in t.name},
            "descriptors": _descriptors(),
            "files": {str(p) for p in self._folder.rglob("*")},
            "shared memory": {p.name for p in Path("/dev/shm").glob(f"*{self._mark}*")},
            "sockets": {line for line in Path("/proc/net/unix").read_text().splitlines() if self._mark in line},
        }

    def _processes(self) -> set[int]:
        """Everything below this process, and everything else that bears the mark."""
        seen = processes()
        found = descendants([os.getpid()], seen)
        for pid in seen.keys() - found - {os.getpid()}:
            with contextlib.suppress(OSError):
                if self._mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    found.add(pid)
        return found


def _describe(pid: int) -> str:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{pid} ({status[0]}, child of {status[1]}) {command[:100]}"
    return str(pid)


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def _pss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
