"""A worker node's identity: its name, its boot, and the kernel's locks that prove when a boot is dead.

`<data>/nodes/<name>.lock` is held by the node's process and holds, as JSON, the boot and its group memberships;
`<name>.children.lock` is held, shared, by every child of the pool. Both fall free only when the whole tree of processes
is gone: then a new process of the same node may say so. A second one at the same time is refused with UsageError.
"""

import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from headrace.errors import UsageError
from headrace.kafka.client import log_throttled

_LOCK_WAIT_S = 10.0  # a predecessor that was killed takes a moment to be gone, and its children too


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The boot that this node had before, all of whose processes are gone; `members` is group -> member id."""

    boot: str
    members: Mapping[str, str] = field(default_factory=dict)


class NodeIdentity:
    """`boot` changes only by `reborn`. All methods are safe from any thread."""

    def __init__(self, name: str, data: Path) -> None:
        folder = data / "nodes"
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.boot = str(uuid.uuid4())
        self.host = socket.gethostname()
        self.pid = os.getpid()
        self.started_ms = time.time_ns() // 1_000_000
        self.lock_path = folder / f"{name}.lock"
        self.children_lock_path = folder / f"{name}.children.lock"
        self.control_path = folder / f"{name}.control.db"
        # The fence's: false for a boot between its freeze and its fencing.
        self.is_awake: Callable[[str], bool] = lambda _: True
        self._members: dict[str, str] = {}
        self._changing = threading.Lock()
        self._lock = -1

    def take(self, wait_s: float = _LOCK_WAIT_S) -> Predecessor | None:
        """Takes the node's lock, and gives the boot that held it before and is proved dead, if there was one."""
        self._lock = _locked(self.lock_path, wait_s)
        if self._lock < 0:
            raise UsageError(
                f"a worker named {self.name!r} runs already (see {self.lock_path}): stop it, or set HEADRACE_NODE"
            )
        before = _read(self._lock)
        children = _locked(self.children_lock_path, wait_s)
        if children >= 0:
            os.close(children)
        else:
            before = None  # something of the old tree still lives: its lease decides
        with self._changing:
            self._write()
        return before

    def is_current(self, boot: str) -> bool:
        """Whether a boot is this node's own and may still speak: false from the moment a freeze is over."""
        return boot == self.boot and self.is_awake(boot)

    def remember(self, group: str, member: str) -> None:
        """Keeps the id of this boot's member of a group (without prefix), for the process that comes after a crash."""
        with self._changing:
            if member and self._members.get(group) != member:
                self._members[group] = member
                self._write()

    def reborn(self, boot: str) -> str:
        """Begins that new boot in this process, at a self-fencing; returns the old one."""
        with self._changing:
            old, self.boot = self.boot, boot
            self.started_ms = time.time_ns() // 1_000_000
            self._write()
            return old

    def release(self) -> None:
        """A clean end: nothing is left for a successor to repair."""
        with self._changing:
            if self._lock >= 0:
                os.ftruncate(self._lock, 0)
                os.close(self._lock)
                self._lock = -1

    def _write(self) -> None:
        if self._lock < 0:
            return
        content = orjson.dumps({"boot": self.boot, "pid": self.pid, "members": self._members})
        try:
            os.pwrite(self._lock, content, 0)
            os.ftruncate(self._lock, len(content))
        except OSError as e:  # a full disk: it costs the successor the wait for a session or a lease
            log_throttled("node's lock", "The boot cannot be kept in %s: %s", self.lock_path, e.strerror)


def _locked(path: Path, wait_s: float) -> int:
    """A descriptor that holds the lock of `path`, not passed on to children; -1 when another keeps it."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(number)
                return -1
            time.sleep(0.02)  # flock cannot be waited for with a limit


def _read(number: int) -> Predecessor | None:
    try:
        found = orjson.loads(os.pread(number, 65536, 0))
        return Predecessor(str(found["boot"]), {str(g): str(m) for g, m in found["members"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # no predecessor, or one that ended in order
