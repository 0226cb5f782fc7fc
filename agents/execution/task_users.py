"""Whom a node's tasks run as, and where: decided once, as the worker starts.

A node that is root gives its slots users of their own, closes its data directory and its results root to them, and
keeps scratch outside of both. Where such a user could not read Python, Headrace or the kinds, as when all of it is in
/root, `auto` goes on as root and says so loudly; a user that was named is a UsageError instead.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from headrace.child.user import ChildUser, blocking_path, close_to_others, unreadable_path, users_for
from headrace.errors import UsageError
from headrace.settings import Settings, parse_address

log = logging.getLogger(__name__)

ELSEWHERE = Path("/var/tmp")  # noqa: S108 - on disk, where /tmp may be memory; the folder made there is checked to be ours


def task_users(settings: Settings) -> list[ChildUser]:
    """One a slot; none when tasks run as the node's own user."""
    users = users_for(settings.task_user, settings.slot_count, parse_address(settings.stats_http)[1])
    if not users:
        return []
    hidden = unreadable_path(users[0], settings.tasks, Path.cwd())
    if hidden is not None:
        what = (
            f"tasks cannot run as another user (id {users[0].uid}): {hidden} is closed to it. Put Python, Headrace and "
            "the task kinds where everybody may read them, such as /opt, or chmod o+rx what is in the way"
        )
        if settings.task_user != "auto":
            raise UsageError(f"HEADRACE_TASK_USER: {what}")
        log.warning("TASKS RUN AS ROOT: %s; or set HEADRACE_TASK_USER=same, to say that this is wanted", what)
        return []
    _close(settings, users)
    if (hidden := unreadable_path(users[0], settings.tasks, Path.cwd())) is not None:
        raise UsageError(f"HEADRACE_DATA, HEADRACE_RESULTS: {hidden} is closed to tasks now: no kinds may lie there")
    return users


def scratch_folder(settings: Settings, node: str, users: Sequence[ChildUser]) -> Path:
    """The pool's folder, which is emptied at start: no other process uses it, as the node's lock says."""
    if settings.scratch:
        folder = Path(settings.scratch) / node
    elif users:
        folder = ELSEWHERE / f"headrace-{node}-{installation(settings)}"
        _check_ours(folder)
    else:
        folder = settings.data / "scratch" / node
    folder.parent.mkdir(parents=True, exist_ok=True)
    for user in users:
        if (closed := blocking_path(user, folder.parent, stat.S_IXOTH)) is not None:
            raise UsageError(
                f"HEADRACE_SCRATCH: user id {user.uid} cannot reach {folder}, as {closed} is closed to it: "
                "name a directory that everybody may enter"
            )
    return folder


def installation(settings: Settings) -> str:
    """Tells the folders of several installations on one machine apart: by their data directories."""
    return hashlib.sha256(str(settings.data.resolve()).encode()).hexdigest()[:8]


def _check_ours(folder: Path) -> None:
    """Others may write beside it: what is there must be a directory of ours."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise UsageError(f"{folder} belongs to somebody else: remove it, or set HEADRACE_SCRATCH to another directory")


def _close(settings: Settings, users: Sequence[ChildUser]) -> None:
    for path in close_to_others([settings.data, settings.results_root]):
        log.warning("%s cannot be closed to tasks: chmod o-rwx it", path)
    for name in ("kafka_security", "api_keys"):
        path = Path(getattr(settings, name))
        if path.is_file() and blocking_path(users[0], path) is None:
            log.warning("%s, which holds secrets, can be read by tasks: chmod o-r it", path)
