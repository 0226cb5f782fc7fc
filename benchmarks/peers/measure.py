"""`python -m benchmarks.peers.measure SYSTEM ROW…`: one system once, in this process; prints its figures as JSON.

`rounds` starts it, with the values of `bench` in the environment. Rows run in the order given. A row that fails has its
error in `<row>_error`, and the next ones run all the same.
"""

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from .bench import Bench
from .metrics import METRICS
from .system import System
from .systems import SYSTEMS

MARK = "FIGURES "
LIMIT_S = 600.0  # of one measurement
_READY_S = 90.0
_WARM_UP = 200
ALONE = {"R": "requests", "I": "up"}  # rows with a broker of their own: the module's `measure(bench)`


class OutOfTime(BaseException):
    """The measurement has taken `LIMIT_S`; no row may go on."""


def main() -> None:
    name, rows = sys.argv[1], sys.argv[2:]
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(int(LIMIT_S))
    bench = Bench.from_environ()
    if rows[0] in ALONE:
        _print(importlib.import_module(f"{__package__}.metrics.{ALONE[rows[0]]}").measure(bench))
        return
    system = SYSTEMS[name].load()(bench)
    figures: dict[str, object] = {"load": os.getloadavg()[0]}
    try:
        measure(system, rows, figures)
    except (Exception, OutOfTime) as e:  # noqa: BLE001 - of any system; it has to be stopped all the same
        figures["error"] = f"{type(e).__name__}: {str(e)[:200]}"
    signal.alarm(0)
    _print(figures)
    if "P" in rows:  # it has left a queue behind
        system.kill_worker()
    system.stop()
    os._exit(0)  # some systems leave threads behind that would wait


def measure(system: System, rows: Sequence[str], figures: dict[str, object]) -> None:
    """Adds the figures of all rows, one row after another."""
    begun = time.monotonic()
    if not system.worker_first:
        system.open()
    worker_begun = time.monotonic()
    system.start_worker()
    if system.worker_first:
        system.open()
    if system.runs_tasks:
        system.wait_all([system.submit("noop", 0)], _READY_S)
        if not set(rows) & {"F1", "F2", "G", "S"}:
            figures["start_s"] = time.monotonic() - begun
            figures["start_worker_s"] = time.monotonic() - worker_begun
            system.wait_all(system.submit_many("noop", [(i,) for i in range(_WARM_UP)]), _READY_S)
    for row in rows:
        figures |= _row(system, row)


def _give_up(*_signal: object) -> None:
    raise OutOfTime(f"not measured in {LIMIT_S:.0f} s")


def _print(figures: Mapping[str, object]) -> None:
    print(MARK + json.dumps(figures), flush=True)


def _row(system: System, row: str) -> dict[str, object]:
    begun = time.monotonic()
    try:
        return {**METRICS[row](system), f"{row}_took_s": time.monotonic() - begun}
    except Exception as e:  # noqa: BLE001 - of any system; the other rows are still worth having
        return {f"{row}_error": f"{type(e).__name__}: {str(e)[:200]}"}


if __name__ == "__main__":
    main()
