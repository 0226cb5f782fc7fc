"""A node's protocol core as a process of its own, which tests can kill and freeze. Run by
`tests.faults.processes.victim`.

Reads one JSON line: settings, name, slots, what its attempts do, and at which failpoint, the nth time, it kills
(`kill`) or stops (`stop`) itself. Its attempts never end (`hold`), `complete` at once, `die` at once, or `wait` for a
line. Prints a line for each job that is handed over.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from agents.execution.job import Job
from headrace.contract.states import Cause
from headrace.settings import Settings
from tests.rigs.core import Core


def main() -> None:
    options = json.loads(sys.stdin.readline())
    left = dict(options["failpoints"])

    def failpoint(place: str) -> None:
        if place in left:
            left[place][1] -= 1
            if left[place][1] == 0:
                print(f"at {place}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL if left[place][0] == "kill" else signal.SIGSTOP)

    settings = Settings(
        kafka=options["kafka"],
        topic_prefix=options["prefix"],
        data=Path(options["data"]),
        lease_s=options["lease_s"],
        keep_s=options["keep_s"],
    )
    core = Core(
        settings, options["name"], options["slots"], failpoint=failpoint, fence=options["fence"], tiny=options["tiny"]
    )

    jobs: list[Job] = []

    def on_job(job: Job) -> None:
        print(f"job {job.task.id} {job.task.attempt}", flush=True)
        jobs.append(job)
        if options["attempts"] == "complete":
            core.end_soon(job)
        elif options["attempts"] == "die":
            dead = core.end_soon(job, cause=Cause.PROCESS_DEATH, detail="killed by SIGKILL")
            dead.add_done_callback(lambda _: print("ended", flush=True))

    core.on_job = on_job
    core.start()
    # A member that dies before it knows its own id holds up its group for a session, which these tests do not want.
    while core.intake._consumer.membership is None or len(core.node._members) < 2:
        time.sleep(0.01)
    print("ready", flush=True)
    for _ in sys.stdin:
        while jobs:
            core.end_soon(jobs.pop())
    threading.Event().wait()


main()
