"""The users that a node's tasks run as, and the pool's folder: decided once, when the worker starts.

A node that is root gives each slot a user of its own, closes its data directory and its results root to them, and keeps
scratch outside of both. Where such a user could not read Python, Headrace or the kinds (all of them in /root, for
instance), the setting `auto` runs tasks as root and logs a warning; for a user named in the setting it is a UsageError.
Called by `agents.worker.main`.
"""

import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from headrace.child.user import (
    ChildUser,
    blocking_path,
    close_to_others,
    shared_scratch,
    unreadable_path,
    users_for,
)
from headrace.errors import UsageError
from headrace.settings import Settings, parse_address

log = logging.getLogger(__name__)


def task_users(settings: Settings) -> list[ChildUser]:
    """One user for each slot; empty when tasks run as the node's own user. UsageError for a user that cannot work."""
    users = users_for(settings.task_user, settings.slot_count, parse_address(settings.stats_http)[1])
    if not users:
        return []
    unreadable = unreadable_path(users[0], settings.tasks, Path.cwd())
    if unreadable is not None:
        problem = (
            f"tasks cannot run as user id {users[0].uid}: {unreadable} is closed to it. Put Python, Headrace and the "
            "task kinds where every user may read them, such as /opt, or run chmod o+rx on that path"
        )
        if settings.task_user != "auto":
            raise UsageError(f"HEADRACE_TASK_USER: {problem}")
        log.warning("TASKS RUN AS ROOT: %s. To accept this, set HEADRACE_TASK_USER=same", problem)
        return []
    _close_to_tasks(settings, users)
    if (unreadable := unreadable_path(users[0], settings.tasks, Path.cwd())) is not None:
        raise UsageError(f"HEADRACE_DATA, HEADRACE_RESULTS: {unreadable} is closed to tasks: keep kinds elsewhere")
    return users


def scratch_folder(settings: Settings, node: str, users: Sequence[ChildUser]) -> Path:
    """The pool's folder. The pool empties it at start: the node's lock keeps every other process out of it.

    UsageError when a task's user cannot reach it, or when it belongs to another user.
    """
    if settings.scratch:
        folder = Path(settings.scratch) / node
    elif users:
        folder = shared_scratch(settings.data, node)
        _check_owner(folder)
    else:
        folder = settings.data / "scratch" / node
    folder.parent.mkdir(parents=True, exist_ok=True)
    for user in users:
        if (closed := blocking_path(user, folder.parent, stat.S_IXOTH)) is not None:
            raise UsageError(
                f"HEADRACE_SCRATCH: user id {user.uid} cannot reach {folder}: {closed} is closed to it. "
                "Name a directory that every user may enter"
            )
    return folder


def _check_owner(folder: Path) -> None:
    """Every user may write to its parent: what exists at the path must be a directory of this process's user."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise UsageError(f"{folder} belongs to another user: remove it, or set HEADRACE_SCRATCH to another directory")


def _close_to_tasks(settings: Settings, users: Sequence[ChildUser]) -> None:
    for path in close_to_others([settings.data, settings.results_root]):
        log.warning("Tasks may reach %s, whose mode cannot be changed: run chmod o-rwx on it", path)
    for name in ("kafka_security", "api_keys"):
        path = Path(getattr(settings, name))
        if path.is_file() and blocking_path(users[0], path) is None:
            log.warning("Tasks can read %s, which holds secrets: run chmod o-r on it", path)
