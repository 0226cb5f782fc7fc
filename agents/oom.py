"""How often the kernel has killed a process of this node's control group for want of memory (cgroup v2, Linux).

A SIGKILL that comes with a higher count is charged as out-of-memory. Where there is no such group the count stays 0,
and such a death is a process death like any other.
"""

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def _events_file() -> Path | None:
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
    except OSError:
        return None
    return next((f for f in (_ROOT / own / "memory.events", _ROOT / "memory.events") if f.is_file()), None)


_EVENTS = _events_file()


def oom_kills() -> int:
    """The count so far."""
    if _EVENTS is None:
        return 0
    try:
        counts = dict(line.split() for line in _EVENTS.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0
