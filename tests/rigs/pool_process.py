"""A process with a pool in which one task waits: `test_node_death` kills it. Arguments: folder, file for pids."""

import asyncio
import sys
import uuid
from pathlib import Path

import orjson

from agents.execution.job import Job
from agents.execution.pool import Pool
from headrace.contract.journal import Claim
from headrace.contract.records import Source
from headrace.contract.submission import Submission
from headrace.contract.task import Task


async def main(folder: Path, pids: str) -> None:
    pool = Pool(
        str(Path(__file__).parent / "hard_tasks.py"), 2, folder / "pool", children_lock=folder / "children.lock"
    )
    kinds = {k.name: k for k in await asyncio.to_thread(pool.start)}
    pool.listen()
    submission = Submission("starts_others", {"pids": pids, "then": "wait"}, "demo")
    task = Task(str(uuid.uuid4()), orjson.dumps({}), attempt=1, source=Source("tasks.normal", 0, 0), submitted_ms=0)
    await pool.run(
        Job(Claim((task,), by="boot", for_="boot", generation=1, node="node"), task, submission, kinds["starts_others"])
    )


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
