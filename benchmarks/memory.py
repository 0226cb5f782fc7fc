"""`python -m benchmarks.memory`: each role's memory over many tasks, and during a big result.

    python -m benchmarks.memory --tasks 50000       # MiB of each role at 1,000, …, 50,000 tasks run
    python -m benchmarks.memory --result-mib 1024   # the peak of each during a small and a big result

Every role is a real process, on a broker of its own. It judges nothing; the aim is at most 10 % from task 1,000 to
50,000.
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.headrace import Native
from headrace.client import Client
from headrace.kafka.client import Kafka
from infra.local.cluster import LocalCluster
from infra.local.memory import MemoryPeak, role_memory

_FIRST, _STEPS, _BATCH = 1000, 8, 500
_QUIET_S = 3.0  # for commits, batches and garbage collection to finish
KINDS = str(Path(__file__).parent / "big_kinds.py")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--tasks", type=int, default=50_000, help="run so many tasks (default: 50000; 0 = none)")
    parser.add_argument("--result-mib", type=int, default=0, help="then a result of so many MiB (default: none)")
    asked = parser.parse_args()
    if asked.tasks:
        with tempfile.TemporaryDirectory() as folder, LocalCluster(Path(folder), partitions=16) as cluster:
            over_tasks(cluster, asked.tasks)
    if asked.result_mib:
        with tempfile.TemporaryDirectory() as folder, LocalCluster(Path(folder), tasks=KINDS) as cluster:
            over_size(cluster, asked.result_mib)


def over_tasks(cluster: LocalCluster, count: int) -> None:
    """Prints a row for each number of tasks run, and the growth from the first to the last."""
    native = Native(Kafka(cluster.settings, "bench"))
    marks = sorted({_FIRST, *(_FIRST + (count - _FIRST) * n // _STEPS for n in range(1, _STEPS + 1))})
    run, first, last = 0, dict[str, float](), dict[str, float]()
    for mark in marks:
        while run < mark:
            batch = min(_BATCH, mark - run)
            native.many(batch)
            run += batch
        time.sleep(_QUIET_S)
        last = roles(cluster)
        if not first:
            first = last
            print(f"{'tasks run':>10}" + "".join(f"{role:>20}" for role in first), flush=True)
        print(f"{run:>10,}" + "".join(f"{last.get(role, 0):>16.1f} MiB" for role in first), flush=True)
    native.close()
    growth = {role: (last.get(role, 0) / mib - 1) * 100 for role, mib in first.items() if mib}
    print(f"{'growth':>10}" + "".join(f"{growth[role]:>18.1f} %" for role in first))


def over_size(cluster: LocalCluster, mib: int) -> None:
    """Prints each role's peak during a small and a big result, and the time of the big one."""
    peaks, took_s = {}, 0.0
    for size in (1, mib):
        with Client(cluster.gateway_url) as client, MemoryPeak(lambda: role_pids(cluster)) as memory:
            begun = time.monotonic()
            task_id = client.submit("big_file", {"mib": size}, "bench")["id"]
            ends = [event.event for event in client.events(task_id)]
            took_s = time.monotonic() - begun
            if ends[-1] != "completed":
                raise RuntimeError(f"the task has {ends[-1]}")
            served = sum(len(piece) for piece in client.result(task_id))
        if served != size * 1024 * 1024:
            raise RuntimeError(f"{served} bytes were served")
        peaks[size] = memory.peak
    print(f"{'result':>10}" + "".join(f"{role:>20}" for role in peaks[1]))
    for size, peak in peaks.items():
        print(f"{size:>6} MiB" + "".join(f"{peak.get(role, 0):>16.1f} MiB" for role in peaks[1]))
    print(f"{mib} MiB from POST to completed in {took_s:.1f} s, {mib / took_s:.1f} MiB/s")


def role_pids(cluster: LocalCluster) -> dict[str, int]:
    """The pids of the roles without the broker, whose memory is its heap."""
    return {role: pid for role, pid in cluster.pids().items() if not role.startswith("kafka")}


def roles(cluster: LocalCluster) -> dict[str, float]:
    return role_memory(role_pids(cluster))


if __name__ == "__main__":
    main()
