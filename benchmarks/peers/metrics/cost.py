"""Rows H and U: memory of an idle worker, and CPU of a task by role."""

import time
from collections.abc import Callable

from ..processes import cpu_s, memory_mib
from ..speed import NOMINAL, cpu_speed
from ..system import System
from .latency import LONE
from .throughput import NOOPS

_SETTLE_S = 2.0


def memory(system: System) -> dict[str, float | str]:
    """MiB of the worker and its children, without the broker."""
    time.sleep(_SETTLE_S)
    rss, pss, number = memory_mib(system.worker_tree())
    return {"H_rss_mib": rss, "H_pss_mib": pss, "H_processes": number}


def cpu_per_task(system: System) -> dict[str, float | str]:
    """Milliseconds of CPU of all processes, at the nominal speed: a no-op among 2,000, and a lone one."""

    def many() -> None:
        system.wait_all(system.submit_many("noop", [(i,) for i in range(NOOPS)]))

    def lone() -> None:
        for i in range(LONE):
            system.wait(system.submit("noop", i), 30)

    return _cpu(system, "U_many", many, NOOPS) | _cpu(system, "U_lone", lone, LONE)


def _cpu(system: System, name: str, work: Callable[[], None], count: int) -> dict[str, float | str]:
    before, speed = cpu_s(system.roles()), cpu_speed()
    work()
    after, scale = cpu_s(system.roles()), (speed + cpu_speed()) / 2 / NOMINAL
    by_role = {role: (after[role] - before[role]) / count * 1000 * scale for role in before}
    figures: dict[str, float | str] = {f"{name}_{role}_ms": ms for role, ms in by_role.items()}
    return {f"{name}_ms": sum(by_role.values())} | figures
