"""How often the kernel has killed a process of this node's control group because memory ran out (cgroup v1 or v2).

`agents.execution.attempt` takes a SIGKILL together with a higher count for an out-of-memory kill. Where the file cannot
be read the count stays 0, and such a death is a process death like any other.
"""

from pathlib import Path

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


def oom_kills() -> int:
    """The count since the control group was made."""
    if _EVENTS is None:
        return 0
    try:
        counts = dict(line.split() for line in _EVENTS.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0
