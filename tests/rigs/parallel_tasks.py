"""Task kinds that use several processes, with their helper functions in the same file. Only children load them."""

import multiprocessing
import multiprocessing.shared_memory
import os
import queue
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from headrace import Context, task


def square(n: int) -> int:
    return n * n


def _context(method: str) -> Any:
    return multiprocessing.get_context(method or None)


@task
def executor(method: str) -> list[int]:
    with ProcessPoolExecutor(2, mp_context=_context(method)) as pool:
        return list(pool.map(square, range(4)))


@task
def threads() -> list[int]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(square, range(4)))


@task
def pool(method: str) -> list[int]:
    with _context(method).Pool(2) as workers:
        return workers.map(square, range(4))  # type: ignore[no-any-return]


@task
def process(method: str) -> int:
    worker = _context(method).Process(target=square, args=(2,))
    worker.start()
    worker.join(30)
    return int(worker.exitcode)


def _answer(questions: Any, answers: Any) -> None:
    while (n := questions.get()) is not None:
        answers.put((n, square(n)))


@task
def queues(method: str) -> dict[str, int]:
    context = _context(method)
    questions, answers = context.Queue(), context.Queue()
    worker = context.Process(target=_answer, args=(questions, answers), daemon=True)
    worker.start()
    for n in range(4):
        questions.put(n)
    found = dict(answers.get(timeout=30) for _ in range(4))
    questions.put(None)
    worker.join(30)
    return {str(n): found[n] for n in sorted(found)}


@task
def manager(method: str) -> dict[str, int]:
    with _context(method).Manager() as made:
        shared = made.dict()
        shared["four"] = square(2)
        return dict(shared)


@task
def loader() -> list[int]:
    """As torch's DataLoader does it: forked workers, a queue for each, a thread that hands on what they load."""
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    indices = [context.Queue() for _ in range(2)]
    workers = [context.Process(target=_answer, args=(own, results), daemon=True) for own in indices]
    for worker in workers:
        worker.start()
    loaded: queue.Queue[tuple[int, int]] = queue.Queue()
    pin = threading.Thread(target=lambda: [loaded.put(results.get()) for _ in range(8)], daemon=True)
    pin.start()
    for n in range(8):
        indices[n % 2].put(n)
    found = dict(loaded.get(timeout=30) for _ in range(8))
    for own in indices:
        own.put(None)
    return [found[n] for n in range(8)]


@task
def with_joblib(backend: str) -> list[int]:
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=2, backend=backend)(delayed(square)(n) for n in range(4)))


@task
def looks_like_a_main_process() -> dict[str, Any]:
    current = multiprocessing.current_process()
    return {
        "name": current.name,
        "daemon": current.daemon,
        "parent": multiprocessing.parent_process() is None,
        "children": len(multiprocessing.active_children()),
        "method": multiprocessing.get_start_method(allow_none=True),
        "main_thread": threading.current_thread() is threading.main_thread(),
        "module": square.__module__,
    }


def _sleeps(started: Any) -> None:
    started.release()
    threading.Event().wait(60)


@task
def leaves_workers(method: str, pids: str, context: Context) -> str:
    """Returns while workers run, with semaphores and shared memory that have names on the machine."""
    own = _context(method)
    started = own.Semaphore(0)
    workers = [own.Process(target=_sleeps, args=(started,)) for _ in range(2)]
    for worker in workers:
        worker.start()
        assert started.acquire(timeout=30)
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=1000)
    locks = [own.Lock() for _ in range(3)]
    names = [memory.name, *(lock._semlock.name for lock in locks)]
    Path(pids).write_text(" ".join([str(os.getpid()), *(str(w.pid) for w in workers)]))
    sys.modules["kept"] = (memory, locks, workers)  # type: ignore[assignment]
    return " ".join(str(name) for name in names)
