"""Wakes listeners when the status view has changed. It carries no data: a woken listener reads the store.

So a slow or vanished client costs one event object and never a queue. The view's thread calls `notify`, and a signal
handler may call `close`, which ends every listener at shutdown. All else runs on the event loop.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from headrace.event_loop import call_in_loop


class Notifier:
    """The listeners of one gateway: to one task each (by the id's 16 bytes), or to all tasks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._by_id: dict[bytes, set[asyncio.Event]] = {}
        self._all: set[asyncio.Event] = set()
        self.closed = False

    @contextmanager
    def listen(self, task_id: bytes | None = None) -> Iterator[asyncio.Event]:
        """An event that is set whenever that task changes, or any task with None. Clear it before reading the store."""
        event = asyncio.Event()
        group = self._all if task_id is None else self._by_id.setdefault(task_id, set())
        group.add(event)
        try:
            yield event
        finally:
            group.discard(event)
            if task_id is not None and not group:
                self._by_id.pop(task_id, None)

    def notify(self, changed_ids: Collection[bytes]) -> None:
        """Wakes the listeners of these tasks and of all tasks; safe from any thread.

        Called after each batch of the view, even when no task has changed: `wait_until` waits for positions.
        """
        listened = [i for i in changed_ids if i in self._by_id]
        if listened or self._all:
            call_in_loop(self._loop, self._wake, listened)

    def close(self) -> None:
        """Ends all listening; safe from any thread and from a signal handler."""
        self.closed = True
        call_in_loop(self._loop, lambda: self._wake(list(self._by_id)))

    async def wait_until(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until `reached()` is true, and checks it after each batch of the view; False after `timeout_s`."""
        deadline = self._loop.time() + timeout_s
        with self.listen() as woken:
            while not reached():
                left = deadline - self._loop.time()
                if left <= 0 or self.closed:
                    return False
                woken.clear()
                if reached():
                    return True
                try:
                    await asyncio.wait_for(woken.wait(), left)
                except TimeoutError:
                    return reached()
        return True

    def _wake(self, task_ids: list[bytes]) -> None:
        for task_id in task_ids:
            for event in self._by_id.get(task_id, ()):
                event.set()
        for event in self._all:
            event.set()
