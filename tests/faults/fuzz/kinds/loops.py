"""Event loops. Loaded in children alone, as a file."""

import asyncio
import time
from typing import Any

from headrace import task


@task(timeout_s=60)
async def waits_in_a_loop(how: str) -> str:
    if how == "raises":
        await asyncio.sleep(0)
        raise ValueError("in a loop")
    if how == "leaves tasks":
        _left.append(asyncio.create_task(asyncio.sleep(60)))
        _left.append(asyncio.get_running_loop().run_in_executor(None, time.sleep, 60))
    if how == "leaves one that fails":
        _left.append(asyncio.create_task(_fails()))
        await asyncio.sleep(0)
    if how == "starts a process":
        process = await asyncio.create_subprocess_exec("echo", "x", stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0].decode().strip()
    if how == "threads":
        return str(sum(await asyncio.gather(*(asyncio.to_thread(int, n) for n in range(10)))))
    if how == "closes":
        asyncio.get_running_loop().call_soon(lambda: None)
        asyncio.set_event_loop(None)
    await asyncio.sleep(0.001)
    return "done"


_left: list[Any] = []


async def _fails() -> None:
    raise ValueError("nobody waits for it")


@task(timeout_s=60)
def runs_a_loop(times: int) -> int:
    return sum(asyncio.run(_number(n)) for n in range(times))


async def _number(n: int) -> int:
    await asyncio.sleep(0)
    return n
