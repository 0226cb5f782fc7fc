"""Progress of running attempts, from the pool to the topic `progress`, at most ten records a second for each task.

Of reports that come faster only the newest is kept, and sent as soon as the rate allows: the last report always
arrives. Belongs to the event loop.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from headrace.contract.progress import Progress
from headrace.contract.records import Outgoing

EVERY_S = 0.1


class ProgressRelay:
    """`send` must not block."""

    def __init__(self, send: Callable[[Outgoing], Any]) -> None:
        self._send = send
        self._held: dict[str, Progress | None] = {}  # tasks that have reported within EVERY_S

    def report(self, progress: Progress) -> None:
        if progress.id in self._held:
            self._held[progress.id] = progress
        else:
            self._send_now(progress)

    def _send_now(self, progress: Progress) -> None:
        self._send(progress.encode())
        self._held[progress.id] = None
        asyncio.get_running_loop().call_later(EVERY_S, self._send_held, progress.id)

    def _send_held(self, task_id: str) -> None:
        held = self._held.pop(task_id)
        if held is not None:
            self._send_now(held)
