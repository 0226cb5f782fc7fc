"""The user's task kinds, imported once before `up` starts anything: a wrong line in them is told at once.

Called by `infra.local.up`. The import runs in a process of its own, as the user that tasks run as, in their
environment. UsageError says what to change. The examples are not checked, since they are ours.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from headrace.child.context import SECRET
from headrace.child.user import ChildUser, unreadable_path, users_for
from headrace.errors import UsageError
from headrace.kind_imports import too_slow_import
from headrace.settings import Settings, parse_address

from .process import last_line
from .service import Service
from .supervisor import USAGE_EXIT, how_it_ended

_MAX_CHARACTERS = 2000


def check_kinds(settings: Settings, logs: Path, is_stopping: Callable[[], bool]) -> None:
    """UsageError when a node could not import HEADRACE_TASKS; returns early when `up` is asked to stop."""
    if not settings.tasks or not settings.workers:
        return
    checking = _KindCheck(settings, logs / "kinds.log")
    checking.launch()
    try:
        deadline = time.monotonic() + settings.import_s
        while checking.alive and not is_stopping():
            if time.monotonic() > deadline:
                raise UsageError(
                    f"HEADRACE_TASKS: {settings.tasks} cannot be imported: {too_slow_import(settings.import_s)}"
                )
            time.sleep(0.02)
        if is_stopping() or checking.returncode == 0:
            return
        said = last_line(checking.log, _MAX_CHARACTERS)
        if checking.returncode == USAGE_EXIT:
            raise UsageError(said)
        raise UsageError(
            f"HEADRACE_TASKS: {settings.tasks} cannot be imported: the process that imports it "
            f"{how_it_ended(checking.returncode)}; its log {checking.log} ends with: {said}"
        )
    finally:
        checking.kill()


class _KindCheck(Service):
    def __init__(self, settings: Settings, log: Path) -> None:
        super().__init__("kinds", log)
        self._settings = settings

    def command(self) -> list[str]:
        here = str(Path.cwd())
        user = _task_user(self._settings)
        ids = [str(user.uid), str(user.gid)] if user else []
        return [sys.executable, "-P", "-m", "headrace.child.import_check", self._settings.tasks, here, *ids]

    def environ(self) -> Mapping[str, str]:
        return {name: value for name, value in os.environ.items() if not SECRET.search(name)}

    def prepare(self) -> None:
        self.log.unlink(missing_ok=True)  # an earlier run's last line must not be told as this one's

    def ready(self) -> bool:
        return self.returncode == 0


def _task_user(settings: Settings) -> ChildUser | None:
    """The user of a node's first slot; None where tasks run as the node's own user. The node itself warns of that."""
    users = users_for(settings.task_user, 1, parse_address(settings.stats_http)[1])
    if not users or unreadable_path(users[0], settings.tasks, Path.cwd()) is not None:
        return None
    return users[0]
