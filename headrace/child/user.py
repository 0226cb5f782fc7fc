"""The operating-system user of each child: where the node is root, every slot has a user without rights of its own.

The node chooses users with `users_for` (HEADRACE_TASK_USER), checks with `unreadable_path` that they can read the code,
and gives each child its `ChildUser`; the child drops its privileges before it imports any task kind. Ids need no entry
in /etc/passwd. Where the node is not root, children run as the node's own user.
"""

import contextlib
import ctypes
import hashlib
import os
import pwd
import resource
import stat
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import UsageError

FIRST_ID = 61_184  # to 65,519: systemd's range for dynamic users, free of login users
SCRATCH_PARENT = Path("/var/tmp")  # noqa: S108 - on disk, where /tmp may be memory; our folder's owner is checked
_NODES, _SLOTS = 64, 64  # each node has a range of ids, by its port; beyond 64 slots they share ids
_MAX_PROCESSES = 4096  # of one user: more than numeric libraries start on big machines, and the end of a fork bomb
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


@dataclass(frozen=True, slots=True)
class ChildUser:
    """User id and group id of a child, which has no supplementary groups."""

    uid: int
    gid: int


def users_for(setting: str, slots: int, port: int) -> list[ChildUser]:
    """One user for each slot; empty when children run as the node's own user.

    `setting` is `auto`, `same`, or a user's name or number; `port` gives nodes on one machine different ids. UsageError
    when the setting names no user, names root, or would need root.
    """
    if setting == "same":
        return []
    if os.geteuid() != 0:
        if setting != "auto":
            raise UsageError("HEADRACE_TASK_USER: only root can run tasks as another user: use auto")
        return []
    if setting == "auto":
        first = FIRST_ID + port % _NODES * _SLOTS
        return [ChildUser(first + slot % _SLOTS, first + slot % _SLOTS) for slot in range(slots)]
    try:
        found = pwd.getpwuid(int(setting)) if setting.isdecimal() else pwd.getpwnam(setting)
        user = ChildUser(found.pw_uid, found.pw_gid)
    except (KeyError, OverflowError):
        if not setting.isdecimal() or not 0 < int(setting) < 2**32 - 1:
            raise UsageError(
                f"HEADRACE_TASK_USER: there is no user {setting!r}: give auto, same, or the name or id of a user"
            ) from None
        user = ChildUser(int(setting), int(setting))
    if user.uid == 0:
        raise UsageError("HEADRACE_TASK_USER: to run tasks as root, use same")
    return [user] * slots


def drop_privileges(user: ChildUser) -> None:
    """Becomes that user for good: set-user-id programs bring no rights back. OSError when the kernel refuses."""
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    os.umask(0o077)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 1)  # gives it back its own /proc entries, which /dev/stdout leads through
    with contextlib.suppress(ValueError, OSError):  # the hard limit is lower already
        resource.setrlimit(resource.RLIMIT_NPROC, (_MAX_PROCESSES, _MAX_PROCESSES))
    for name in ("USER", "LOGNAME", "XDG_RUNTIME_DIR", "MAIL", "SSH_AUTH_SOCK"):
        os.environ.pop(name, None)


def unreadable_path(user: ChildUser, tasks: str, import_path: Path) -> Path | None:
    """The first path that the user may not read and its child needs: Python, packages, Headrace, kinds; else None."""
    paths = sysconfig.get_paths()
    needed = [Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    needed += [Path(__file__).parents[1], *_kind_files(tasks, import_path)]
    return next((closed for path in needed if path.exists() and (closed := blocking_path(user, path))), None)


def blocking_path(user: ChildUser, path: Path, right: int = stat.S_IROTH) -> Path | None:
    """The path itself or the directory above it that keeps the user from reading it; None when the user may read it.

    Judges by permission bits alone. With `right` S_IXOTH: whether the user may enter a directory.
    """
    real = path.resolve()
    for directory in reversed(real.parents):
        if not _may(user, directory, stat.S_IXOTH):
            return directory
    return None if _may(user, real, right) else real


def shared_scratch(data: Path, node: str) -> Path:
    """The node's folder for the scratch of tasks that run as users of their own: outside the data directory.

    A hash of the data directory's path tells several installations on one machine apart.
    """
    return SCRATCH_PARENT / f"headrace-{node}-{hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]}"


def close_to_others(paths: Iterable[Path]) -> list[Path]:
    """Removes all rights of others from these directories; returns those where that failed."""
    failed = []
    for path in paths:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & stat.S_IRWXO:
                path.chmod(mode & ~stat.S_IRWXO)
        except OSError:
            failed.append(path)
    return failed


def _kind_files(tasks: str, import_path: Path) -> list[Path]:
    from headrace.kinds import example_files

    names = [t.strip() for t in tasks.split(",") if t.strip()] or example_files()
    files = []
    for name in names:
        if name.endswith(".py") or "/" in name:
            files.append(Path(name))
        else:
            top = import_path / name.partition(".")[0]
            files += [top, top.with_suffix(".py")]
    return files


def _may(user: ChildUser, path: Path, right_of_others: int) -> bool:
    """Whether the permission bits of owner, group or others give the user that right."""
    found = path.stat()
    shift = 6 if found.st_uid == user.uid else 3 if found.st_gid == user.gid else 0
    return bool(found.st_mode & right_of_others << shift)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) was refused")
