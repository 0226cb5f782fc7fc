"""Tells the event loop what became of the records that it sent: one call for all that the sender reports at once.

A future for each record, and a call to the loop for each future, cost more than to send it. Routes call `Receipts.send`
on the loop; the sender's thread reports. Nothing here fails: what became of a record is its place in the log, or
Retryable.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from headrace.contract.records import Outgoing
from headrace.errors import Retryable
from headrace.event_loop import call_in_loop
from headrace.kafka.sender import Sender, Written

Fate = Written | BaseException  # its place and time, or why Kafka may not have the record


class Receipts:
    """The records that one gateway has on their way. `send` is for the loop alone."""

    def __init__(self, sender: Sender, loop: asyncio.AbstractEventLoop) -> None:
        self._sender, self._loop = sender, loop
        self._complete: deque[_Batch] = deque()
        self._is_called = False  # whether the loop will look at `_complete`

    def send(self, records: Sequence[Outgoing]) -> "asyncio.Future[list[Fate]]":
        """Sends all; the future has the fate of each, in their order, once all are known."""
        batch = _Batch(self, len(records), self._loop.create_future())
        for i, record in enumerate(records):
            self._sender.send_for(record, _Receipt(batch, i))
        if not records:
            batch.future.set_result([])
        return batch.future

    def completed(self, batch: "_Batch") -> None:
        """Called by a batch, from any thread."""
        self._complete.append(batch)
        if not self._is_called:
            self._is_called = True
            call_in_loop(self._loop, self._tell)

    def _tell(self) -> None:
        self._is_called = False  # before looking: what comes from now on calls again
        while self._complete:
            batch = self._complete.popleft()
            if not batch.future.done():
                batch.future.set_result([batch.fates[i] for i in range(batch.size)])


class _Batch:
    """The fates of the records of one call, as they become known."""

    __slots__ = ("_receipts", "fates", "future", "size")

    def __init__(self, receipts: Receipts, size: int, future: "asyncio.Future[list[Fate]]") -> None:
        self._receipts, self.size, self.future = receipts, size, future
        self.fates: dict[int, Fate] = {}

    def add(self, index: int, fate: Fate) -> None:
        self.fates[index] = fate
        if len(self.fates) == self.size:
            self._receipts.completed(self)


class _Receipt:
    """Of one record; nobody cancels it."""

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: _Batch, index: int) -> None:
        self._batch, self._index = batch, index

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def set_running_or_notify_cancel(self) -> bool:
        return True

    def set_result(self, result: Written) -> None:
        self._batch.add(self._index, result)

    def set_exception(self, exception: BaseException | None) -> None:
        self._batch.add(self._index, exception or Retryable("Kafka has not accepted the record"))
