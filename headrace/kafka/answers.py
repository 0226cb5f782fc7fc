"""Waiting in an event loop for Kafka's answers to many records, with one wake-up of the loop for all of them.

Used where records are sent in batches: each wrapped future would wake the loop by itself.
"""

import asyncio
import threading
from collections.abc import Sequence

from headrace.event_loop import call_in_loop
from headrace.kafka.held_records import Sent


async def wait_answered(sent: Sequence[Sent], at_most_s: float | None = None) -> None:
    """Returns when all are done, whatever their results are, or after the time. It changes nothing about them."""
    open_ones = [s for s in sent if not s.done()]
    if not open_ones:
        return
    loop = asyncio.get_running_loop()
    all_done, lock, left = loop.create_future(), threading.Lock(), len(open_ones)

    def set_done() -> None:
        if not all_done.done():
            all_done.set_result(None)

    def on_answer(_: Sent) -> None:
        nonlocal left
        with lock:
            left -= 1
            is_last = not left
        if is_last:
            call_in_loop(loop, set_done)  # if it has ended, nobody waits any more

    for one in open_ones:
        one.add_done_callback(on_answer)
    await asyncio.wait({all_done}, timeout=at_most_s)


def is_taken(answer: Sent) -> bool:
    """Whether Kafka has the record: False also while its answer is still to come."""
    return answer.done() and not answer.cancelled() and answer.exception() is None
