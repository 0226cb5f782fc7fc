"""The in-memory channel that feeds a Faust agent from a thread: the worker's and the storekeeper's.

Faust empties the queues that it manages itself when its consumer gets new partitions; a job that was claimed would be
lost with them. No rebalance touches this channel's queue. All clones of the channel share one queue, so that what is
handed over while the agent restarts waits for it.
"""

from typing import Any

from faust.channels import Channel
from mode.utils.queues import FlowControlEvent, ThrowableQueue


class HandOverChannel(Channel[Any]):
    """`hand_over` must be called in the event loop. The queue has no limit of its own: the callers keep it short."""

    @property
    def queue(self) -> Any:
        root = self._root or self
        if root._queue is None:
            flow = FlowControlEvent(initially_suspended=False)  # not the app's: nothing suspends it
            root._queue = ThrowableQueue(flow_control=flow, clear_on_resume=False)
        return root._queue

    def hand_over(self, item: Any) -> None:
        """Gives the agent one item."""
        self.queue.put_nowait(item)
