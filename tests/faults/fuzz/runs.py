"""Runs drawn attempts on a pool's slots, with canaries between them, and collects what is wrong."""

import asyncio
import contextlib
import itertools
import random
import shutil
import uuid
from collections import Counter, deque
from pathlib import Path
from typing import Any

import orjson

from agents.execution.job import AttemptEnd, Job
from agents.execution.pool import Pool
from headrace.contract.cluster import KindInfo
from headrace.contract.journal import Claim
from headrace.contract.payload_check import PayloadCheck
from headrace.contract.records import Source
from headrace.contract.submission import Submission
from headrace.contract.task import Task
from headrace.errors import Invalid, Undecodable
from headrace.storage.attempt_log import log_file
from tests.faults.fuzz.drawing import Drawn, draw
from tests.faults.fuzz.judging import content

_CANARIES = 0.5  # after each attempt, with this probability
_GROUPS = 0.1
_LOOK_BACK = 4  # attempts that a canary's complaint names


class Refused(Exception):
    """The gateway and the intake would not let the submission in."""


class Fuzz:
    """`complaints` has a line for everything that is wrong, `counts` the attempts by kind and end."""

    def __init__(self, pool: Pool, kinds: list[KindInfo], results: Path, seed: int) -> None:
        self._pool, self._results, self._seed = pool, results, seed
        self._kinds = {k.name: k for k in kinds}
        self._checks = {k.name: PayloadCheck(k) for k in kinds}
        self._expected: dict[str, Any] | None = None  # the state that every canary must find
        self._own: set[object] = set()  # what no two canaries may draw
        self.complaints: list[str] = []
        self.counts: Counter[str] = Counter()

    async def run(self, numbers: range, slots: int) -> None:
        """Makes the attempts with these numbers, and canaries between them."""
        left = iter(numbers)
        await asyncio.gather(*(self._work(left) for _ in range(slots)))

    async def canary(self, after: object = "the start") -> None:
        word = uuid.uuid4().hex
        job = self._job("canary", orjson.dumps({"word": word}).decode(), 60.0)
        end = await self._pool.run(job)
        wrong = self._state_complaint(end) or self._log_complaint(job, word)
        if wrong:
            self.complaints.append(f"a canary after {after}: {wrong}")
        self._remove_files(job, end)

    async def _work(self, numbers: "itertools.chain[int] | Any") -> None:
        latest: deque[str] = deque(maxlen=_LOOK_BACK)
        for number in numbers:
            rng = random.Random(f"{self._seed}/{number}/how")
            group = [number]
            if rng.random() < _GROUPS:
                group += itertools.islice(numbers, rng.randint(1, 4))
            drawn = {n: draw(self._seed, n) for n in group}
            together = [n for n in group if drawn[n].groups_well]
            await self._attempts({n: drawn[n] for n in together})
            for n in set(group) - set(together):
                await self._attempts({n: drawn[n]})
            latest.extend(f"{n} {drawn[n].kind} {drawn[n].payload[:150]}" for n in group)
            if rng.random() < _CANARIES:
                await self.canary(list(latest))

    async def _attempts(self, drawn: dict[int, Drawn]) -> None:
        """Runs them in one slot, one after another."""
        jobs: dict[str, tuple[int, Drawn, Job]] = {}
        for number, one in drawn.items():
            try:
                job = self._job(one.kind, one.payload, one.timeout_s)
            except Refused as e:
                self.counts[f"{one.kind} refused"] += 1
                if not one.may_be_refused:
                    self._complain(number, one, f"refused: {e}")
                continue
            jobs[job.task.id] = number, one, job

        def on_end(job: Job, end: AttemptEnd) -> None:
            number, one, _ = jobs.pop(job.task.id)
            self.counts[f"{one.kind} {end.cause or 'completed'}"] += 1
            if wrong := one.judge(end):
                self._complain(number, one, wrong)
            self._remove_files(job, end)

        queue = deque(job for _, _, job in jobs.values())
        cancels = [asyncio.create_task(self._cancel(j, d)) for _, d, j in jobs.values() if d.cancel_after_s is not None]
        await self._pool.run_all(queue, lambda _: True, on_end)
        for cancel in cancels:
            cancel.cancel()
        for number, one, _ in jobs.values():
            self._complain(number, one, "it has no end")

    async def _cancel(self, job: Job, one: Drawn) -> None:
        await asyncio.sleep(one.cancel_after_s or 0)
        while not self._pool.cancel(job.task.id):  # noqa: ASYNC110 - it waits for its slot
            await asyncio.sleep(0.005)

    def _complain(self, number: int, one: Drawn, wrong: str) -> None:
        self.complaints.append(f"{number} {one.kind} {one.payload[:200]}: {wrong}")

    def _job(self, kind: str, payload: str, timeout_s: float) -> Job:
        """From the bytes of a record, as the intake makes it. Refused when the gateway would not have taken it."""
        raw = f'{{"name": "{kind}", "directory": "fuzz", "timeout_s": {timeout_s}, "payload": {payload}}}'.encode()
        try:
            submission = Submission.decode(raw)
        except (Undecodable, Invalid) as e:
            raise Refused(str(e)) from None
        if problems := self._checks[kind].problems(submission.payload):
            raise Refused(str(problems[0]))
        source = Source("tasks.normal", 0, 0)
        task = Task(str(uuid.uuid4()), raw, attempt=1, source=source, submitted_ms=0)
        claim = Claim((task,), by="boot", for_="boot", generation=1, node="node")
        return Job(claim, task, submission, self._kinds[kind])

    def _state_complaint(self, end: AttemptEnd) -> str | None:
        if end.cause is not None:
            return f"{end.cause}: {end.detail[-500:]}"
        found = orjson.loads(content(end))
        if known := self._own.intersection(found["own"]):
            return f"it drew {known} again"
        self._own.update(found["own"])
        state = found["same"]
        if self._expected is None:
            self._expected = state
            return _unclean(state)
        differs = {k: (v, state.get(k)) for k, v in self._expected.items() if state.get(k) != v}
        return "; ".join(_difference(k, *v) for k, v in differs.items()) or None

    def _log_complaint(self, job: Job, word: str) -> str | None:
        log = log_file(self._results, job.task.id, 1)
        printed = log.read_bytes() if log.exists() else b""
        return None if printed == f"{word}\n".encode() else f"its log is {printed[:200]!r}"

    def _remove_files(self, job: Job, end: AttemptEnd) -> None:
        if end.result_file is not None:
            end.result_file.unlink()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(log_file(self._results, job.task.id, 1).parent)


def _unclean(state: dict[str, Any]) -> str | None:
    """The first canary's state is what the others are compared with: these must hold of it."""
    wanted = {
        "directory": True,
        "scratch": [],
        "kept": 0,
        "children": False,
        "pending": [],
        "blocked": [],
        "timers": [[0.0, 0.0]] * 3,
        "leads session": True,
        "traced": [None] * 3,
    }
    differs = {k: (v, state[k]) for k, v in wanted.items() if state[k] != v}
    return "; ".join(_difference(k, *v) for k, v in differs.items()) or None


def _difference(name: str, expected: Any, found: Any) -> str:
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = [k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)]
        return f"{name}: " + ", ".join(f"{k} is {found.get(k)!r} and not {expected.get(k)!r}" for k in sorted(keys)[:5])
    if isinstance(expected, list) and isinstance(found, list) and len(expected) > 10:
        return f"{name}: more {[v for v in found if v not in expected]}, less {[v for v in expected if v not in found]}"
    return f"{name} is {found!r} and not {expected!r}"
