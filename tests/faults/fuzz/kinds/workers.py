"""Worker processes by multiprocessing and concurrent.futures. Loaded in children alone, as a file."""

import concurrent.futures
import multiprocessing
import os
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from headrace import task
from tests.faults.fuzz.mess import MARK

_left: list[Any] = []


def square(n: int) -> int:
    """The function that pools run: of this file, so workers must be able to import it."""
    return n * n


def _put(queue: Any, n: int) -> None:
    queue.put(square(n))


@task(timeout_s=100)
def uses_processes(what: str, context: str, closes: bool) -> list[int]:
    """Squares of 0 to 4, by worker processes; without `closes` everything is left as it is."""
    multiprocessing.current_process()._config["semprefix"] = f"/{MARK}"  # type: ignore[attr-defined]  # so that they are found
    kind = multiprocessing.get_context(None if context == "default" else context)
    if what == "executor":
        executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=kind)
        found = list(executor.map(square, range(5)))
        _left.append(executor.shutdown() if closes else executor)
    elif what == "pool":
        pool = kind.Pool(2)
        found = pool.map(square, range(5))
        _left.append(pool.terminate() if closes else pool)
    elif what == "processes":
        queue = kind.Queue()
        processes = [kind.Process(target=_put, args=(queue, n)) for n in range(5)]
        for process in processes:
            process.start()
        found = sorted(queue.get(timeout=60) for _ in processes)
        for process in processes:
            process.join()
        assert [p.exitcode for p in processes] == [0] * 5
    else:
        manager = kind.Manager()
        shared = manager.list(range(5))
        memory = SharedMemory(f"{MARK}-{os.getpid()}", create=True, size=1000)
        found = [square(n) for n in shared]
        _left.append(memory)
        if closes:
            manager.shutdown()
            memory.close()
            memory.unlink()
    return found
