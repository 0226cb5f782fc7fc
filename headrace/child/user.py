"""Who children run as: where the node is root, each slot has a user of its own, who may touch nothing of the node's.

The node chooses users by `users_for` (HEADRACE_TASK_USER), asks `hidden_from` what such a user could not read, and
gives each child its `ChildUser`; the child becomes it, for good, before it imports any task kind. Ids need no entry in
/etc/passwd. Elsewhere than on Linux and where the node is not root, children run as the node's own user.
"""

import contextlib
import ctypes
import os
import pwd
import resource
import stat
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import UsageError

FIRST_ID = 61_184  # up to 65,519: where systemd, too, takes its users for the moment from; nobody has a login there
_NODES, _SLOTS = 64, 64  # a range of ids a node, told apart by port; beyond it slots share ids
_PROCESSES = 4096  # a user may have: above what numeric libraries start on big machines, and the end of a fork bomb
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


@dataclass(frozen=True, slots=True)
class ChildUser:
    """A user and a group without any further group."""

    uid: int
    gid: int


def users_for(setting: str, slots: int, port: int) -> list[ChildUser]:
    """One a slot; none when children run as the node's own user. UsageError when the setting names nobody.

    `setting` is `auto`, `same`, or a user's name or number; `port` tells nodes on one machine apart.
    """
    if setting == "same":
        return []
    if os.geteuid() != 0:
        if setting != "auto":
            raise UsageError("HEADRACE_TASK_USER: only root can run tasks as another user: leave it at auto")
        return []
    if setting == "auto":
        first = FIRST_ID + port % _NODES * _SLOTS
        return [ChildUser(first + slot % _SLOTS, first + slot % _SLOTS) for slot in range(slots)]
    try:
        found = pwd.getpwuid(int(setting)) if setting.isdecimal() else pwd.getpwnam(setting)
        user = ChildUser(found.pw_uid, found.pw_gid)
    except (KeyError, OverflowError):
        if not setting.isdecimal() or not 0 < int(setting) < 2**32 - 1:
            raise UsageError(f"HEADRACE_TASK_USER: there is no user {setting!r}: give auto, same or a user") from None
        user = ChildUser(int(setting), int(setting))
    if user.uid == 0:
        raise UsageError("HEADRACE_TASK_USER: to run tasks as root, say so by `same`")
    return [user] * slots


def become(user: ChildUser) -> None:
    """Drops all rights for good, also those that set-user-id programs would bring back."""
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    os.umask(0o077)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 1)  # its own /proc entries are its own again: /dev/stdout leads through them
    with contextlib.suppress(ValueError, OSError):  # the limit is lower already
        resource.setrlimit(resource.RLIMIT_NPROC, (_PROCESSES, _PROCESSES))
    for name in ("USER", "LOGNAME", "XDG_RUNTIME_DIR", "MAIL", "SSH_AUTH_SOCK"):
        os.environ.pop(name, None)


def hidden_from(user: ChildUser, tasks: str, import_path: Path) -> Path | None:
    """The first thing that a child of that user needs and cannot read: Python, its packages, Headrace, the kinds."""
    paths = sysconfig.get_paths()
    needed = [Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    needed += [Path(__file__).parents[1], *_kind_files(tasks, import_path)]
    return next((closed for path in needed if path.exists() and (closed := closed_to(user, path))), None)


def closed_to(user: ChildUser, path: Path, right: int = stat.S_IROTH) -> Path | None:
    """What keeps the user from reading a file or listing a directory: itself or one above it; None when nothing does.

    By the permission bits alone. With `right` S_IXOTH: from entering a directory.
    """
    real = path.resolve()
    for directory in reversed(real.parents):
        if not _may(user, directory, stat.S_IXOTH):
            return directory
    return None if _may(user, real, right) else real


def close_to_others(paths: Iterable[Path]) -> list[Path]:
    """Takes what others may do with these directories away; those where it cannot be done are returned."""
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
    """Whether the bits give the user that right: its own, its group's, or everybody's."""
    found = path.stat()
    shift = 6 if found.st_uid == user.uid else 3 if found.st_gid == user.gid else 0
    return bool(found.st_mode & right_of_others << shift)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) was refused")
