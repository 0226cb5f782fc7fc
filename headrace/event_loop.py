"""Event loops: calls into one from other threads, and the loop of an `async def` kind, one for each attempt.

Every role's threads use `call_in_loop`, which never fails because the loop has ended. `headrace.kinds` uses
`run_coroutine`, which raises what the task does.

asyncio is imported where it is needed: a child that has it in memory forks its runners a third more slowly.
"""

import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

_GRACE_S = 5.0  # for what the task has left running to react to its cancellation


def call_in_loop(loop: "asyncio.AbstractEventLoop | None", call: Callable[..., object], *arguments: Any) -> bool:
    """Has the loop call it soon; from any thread. False, and calls nothing, without a loop or when it is closed.

    Looking at `is_closed` first is no substitute: the loop's own thread may close it right after the look.
    """
    try:
        if loop is not None:
            loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        if not loop.is_closed():  # type: ignore[union-attr]
            raise
        return False
    return loop is not None


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs it in a new event loop and returns its result.

    As `asyncio.run`, it cancels the tasks that are left and closes asynchronous generators. But it waits neither for
    threads nor, after a grace, for tasks that ignore their cancellation: the attempt's end must not depend on them.
    """
    import asyncio

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(coroutine)
    finally:
        with contextlib.suppress(TimeoutError):
            loop.run_until_complete(_end_leftovers(loop))
        asyncio.set_event_loop(None)
        loop.close()


async def _end_leftovers(loop: "asyncio.AbstractEventLoop") -> None:
    import asyncio

    async with asyncio.timeout(_GRACE_S):
        left = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_GRACE_S)
        await loop.shutdown_asyncgens()
