"""A worker node's identity: its name, its boot, and the kernel's locks that prove when a boot is dead.

The node's process holds a lock on `<data>/nodes/<name>.lock`, which contains, as JSON, the boot and its group
memberships. Every child of the pool holds a shared lock on `<name>.children.lock`. Both are free only when the whole
process tree is gone; then a new process of the node may declare the old boot dead. A second process of the same node is
refused with UsageError.
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
from headrace.process.throttled_log import log_throttled

_LOCK_WAIT_S = 10.0  # a predecessor that was killed takes a moment to be gone, and its children too


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The node's boot before this one; all its processes are gone. `members`: group (without prefix) -> member id."""

    boot: str
    members: Mapping[str, str] = field(default_factory=dict)


class NodeIdentity:
    """`boot` changes only by `begin_boot`. All methods are safe from any thread."""

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
        # Set by the fence: false for a boot between its freeze and its fencing.
        self.is_awake: Callable[[str], bool] = lambda _: True
        self._members: dict[str, str] = {}
        self._changing = threading.Lock()
        self._lock = -1

    def take_lock(self, wait_s: float = _LOCK_WAIT_S) -> Predecessor | None:
        """Takes the node's lock; returns the boot that held it before, if there was one and it is proved dead.

        UsageError when another process still holds the lock after `wait_s` seconds.
        """
        self._lock = _lock_file(self.lock_path, wait_s)
        if self._lock < 0:
            raise UsageError(
                f"a worker named {self.name!r} runs already (see {self.lock_path}): stop it, or set HEADRACE_NODE"
            )
        before = _read_predecessor(self._lock)
        children = _lock_file(self.children_lock_path, wait_s)
        if children >= 0:
            os.close(children)
        else:
            before = None  # a process of the old tree is still alive: its lease decides
        with self._changing:
            self._write_lock_file()
        return before

    def is_current(self, boot: str) -> bool:
        """Whether `boot` is this node's own and still acts for it: false from the moment that a freeze is over."""
        return boot == self.boot and self.is_awake(boot)

    def remember_member(self, group: str, member: str) -> None:
        """Keeps this boot's member id in a group (name without prefix) for the process that follows a crash."""
        with self._changing:
            if member and self._members.get(group) != member:
                self._members[group] = member
                self._write_lock_file()

    def begin_boot(self, boot: str) -> str:
        """Begins a new boot in this process, at a self-fencing; returns the old one."""
        with self._changing:
            old, self.boot = self.boot, boot
            self.started_ms = time.time_ns() // 1_000_000
            self._write_lock_file()
            return old

    def release_lock(self) -> None:
        """Frees and empties the lock's file at a clean end: the next process finds no predecessor to take over."""
        with self._changing:
            if self._lock >= 0:
                os.ftruncate(self._lock, 0)
                os.close(self._lock)
                self._lock = -1

    def _write_lock_file(self) -> None:
        if self._lock < 0:
            return
        content = orjson.dumps({"boot": self.boot, "pid": self.pid, "members": self._members})
        try:
            os.pwrite(self._lock, content, 0)
            os.ftruncate(self._lock, len(content))
        except OSError as e:  # a full disk: the next process will have to wait for a session or a lease to end
            log_throttled("node's lock", "The boot cannot be written to %s: %s", self.lock_path, e.strerror)


def _lock_file(path: Path, wait_s: float) -> int:
    """A descriptor that holds the lock on `path` and is not inherited; -1 when another process keeps the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                return -1
            time.sleep(0.02)  # flock has no timeout


def _read_predecessor(fd: int) -> Predecessor | None:
    try:
        found = orjson.loads(os.pread(fd, 65536, 0))
        return Predecessor(str(found["boot"]), {str(g): str(m) for g, m in found["members"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # no predecessor, or one that ended cleanly
