"""A node's protocol core as a process of its own, so that it can be killed and frozen. Run by
`tests.faults.processes.victim`.

Reads one JSON line: settings, name, slots, what its attempts do, and at which named place, the how many-th time, it
kills (`kill`) or stops (`stop`) itself. Its attempts never end (`hold`), `complete` at once, `die` at once, or `wait`
for a line. Prints a line for each job it is handed.
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
    told = json.loads(sys.stdin.readline())
    left = dict(told["at"])

    def at(point: str) -> None:
        if point in left:
            left[point][1] -= 1
            if left[point][1] == 0:
                print(f"at {point}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL if left[point][0] == "kill" else signal.SIGSTOP)

    settings = Settings(
        kafka=told["kafka"],
        topic_prefix=told["prefix"],
        data=Path(told["data"]),
        lease_s=told["lease_s"],
        keep_s=told["keep_s"],
    )
    core = Core(settings, told["name"], told["slots"], failpoint=at, fence=told["fence"], tiny=told["tiny"])

    jobs: list[Job] = []

    def on_job(job: Job) -> None:
        print(f"job {job.task.id} {job.task.attempt}", flush=True)
        jobs.append(job)
        if told["attempts"] == "complete":
            core.ended(job)
        elif told["attempts"] == "die":
            dead = core.ended(job, cause=Cause.PROCESS_DEATH, detail="killed by SIGKILL")
            dead.add_done_callback(lambda _: print("ended", flush=True))

    core.on_job = on_job
    core.start()
    # A member that dies before it knows its own id holds its group up for a session: those tests are not of that.
    while core.intake._consumer.membership is None or len(core.node._members) < 2:
        time.sleep(0.01)
    print("ready", flush=True)
    for _ in sys.stdin:
        while jobs:
            core.ended(jobs.pop())
    threading.Event().wait()


main()
