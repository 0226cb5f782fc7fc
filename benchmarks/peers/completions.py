"""What a client knows of ended tasks: a reading thread notes them, and the measuring one waits for them."""

import threading

from .system import NotDone, TaskFailed


class Completions:
    """Task ids and how they ended. Thread-safe."""

    def __init__(self) -> None:
        self._ends: dict[str, str] = {}
        self._changed = threading.Condition()

    def note(self, ends: dict[str, str]) -> None:
        """Adds tasks that ended: the reason of a failure, or an empty text for a completed one."""
        if ends:
            with self._changed:
                self._ends.update(ends)
                self._changed.notify_all()

    def wait(self, task_id: str, timeout_s: float) -> str:
        """Waits until the task has completed. NotDone after `timeout_s`, TaskFailed."""
        with self._changed:
            if not self._changed.wait_for(lambda: task_id in self._ends, timeout_s):
                raise NotDone
            why = self._ends[task_id]
        if why:
            raise TaskFailed(why)
        return "ok"
