"""How often the kernel has killed a process of this node's control group because memory ran out (cgroup v1 or v2).

`agents.execution.attempt` takes a SIGKILL together with a higher count for an out-of-memory kill. Where the file cannot
be read the count stays 0, and such a death is a process death like any other.
"""

import time
from pathlib import Path

_RECENT_S = 0.05
_ROOT = Path("/sys/fs/cgroup")


def _events_file() -> Path | None:
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return None
    own = {controllers: path.lstrip("/") for _, controllers, path in groups}
    candidates = [_ROOT / own.get("", "") / "memory.events", _ROOT / "memory.events"]
    for controllers, path in own.items():
        if "memory" in controllers.split(","):  # v1, which counts the group's own kills only
            candidates = [_ROOT / "memory" / path / "memory.oom_control", _ROOT / "memory/memory.oom_control"]
    return next((f for f in candidates if f.is_file()), None)


_EVENTS = _events_file()


class _Newest:
    """What was read last, and when: reading costs more than all else that the start of a tiny attempt needs."""

    kills, read_at = 0, float("-inf")


def oom_kills() -> int:
    """The count since the control group was made."""
    _Newest.read_at = time.monotonic()
    _Newest.kills = _read_kills()
    return _Newest.kills


def recent_oom_kills() -> int:
    """The same, as it was at most 50 ms ago: for what is compared with a later count."""
    return _Newest.kills if time.monotonic() - _Newest.read_at < _RECENT_S else oom_kills()


def _read_kills() -> int:
    if _EVENTS is None:
        return 0
    try:
        counts = dict(line.split() for line in _EVENTS.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0
