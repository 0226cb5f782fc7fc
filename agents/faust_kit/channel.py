"""The in-memory channel between the intake thread and the worker agent.

A Faust channel whose queue no rebalance touches: the queues that Faust manages itself are emptied when its consumer
gets new partitions, and a job that was claimed would be lost with them. All clones share one queue, so that what is
handed over while the agent restarts waits for it.
"""

from typing import Any

from faust.channels import Channel
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from agents.execution.job import Jobs


class HandOverChannel(Channel[Jobs]):
    """`put_jobs` belongs to the event loop. The number of jobs is bounded by the node's slots."""

    @property
    def queue(self) -> Any:
        root = self._root or self
        if root._queue is None:
            flow = FlowControlEvent(initially_suspended=False)  # its own, which nobody suspends
            root._queue = ThrowableQueue(flow_control=flow, clear_on_resume=False)
        return root._queue

    def put_jobs(self, jobs: Jobs) -> None:
        self.queue.put_nowait(jobs)
