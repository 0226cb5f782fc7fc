"""Step 4: what an attempt's end leads to, in PROTOCOL's order, each acknowledged before the next is sent:
started, then the outcome or the next attempt, then the tombstone.

Used by the worker agent, in its event loop. Waits through any outage of Kafka. Once the node has fenced itself, what
belongs to the old boot is dropped: others have been given it.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from agents.completion.claim_members import ClaimMembers
from agents.completion.delayed_retries import DelayedRetries
from agents.completion.outcomes import without_result
from agents.completion.retry_policy import Again, Over, after
from agents.execution.job import AttemptEnd, Job
from agents.membership.identity import NodeIdentity
from headrace.contract.journal import Why
from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import started
from headrace.contract.outcome import CHUNK_BYTES, Outcome
from headrace.contract.records import Outgoing
from headrace.contract.states import Reason
from headrace.errors import Retryable
from headrace.kafka.client import Sender, log_throttled
from headrace.process.failpoints import Failpoint, no_failpoint

log = logging.getLogger(__name__)

Key = tuple[str, int, str]  # id, attempt, boot

_MOST_ENDING = 256  # beyond it, attempts wait for their tombstones


class Fenced(Exception):
    """The boot that ran the attempt is over: nothing of it may be told any more."""


class Finisher:
    """All methods belong to the event loop. `at` names the places where fault tests step in."""

    def __init__(
        self,
        sender: Sender,
        node: NodeIdentity,
        is_cancelled: Callable[[str], bool] = lambda _: False,
        failpoint: Failpoint = no_failpoint,
        members: ClaimMembers | None = None,
    ) -> None:
        self._sender, self._node, self._is_cancelled, self._failpoint = sender, node, is_cancelled, failpoint
        self._started: dict[Key, asyncio.Future[object]] = {}
        self._members = members or ClaimMembers()
        self._waiting = DelayedRetries()
        self._ending: set[asyncio.Future[None]] = set()  # tombstones that Kafka has not acknowledged yet

    def started(self, job: Job) -> None:
        """Sends lifecycle.started, without waiting. Calling it again for the same attempt changes nothing."""
        key = _key(job)
        if key not in self._started:
            s = job.submission
            record = started(job.task, s.name, s.directory, self._node.name, job.claim.for_)
            self._started[key] = asyncio.ensure_future(self._acknowledged(record))

    async def finish(self, job: Job, end: AttemptEnd) -> None:
        """Returns when Kafka has the outcome or the next attempt, or nothing of it because the node is fenced."""
        try:
            self._check(job)
            if end.begun:
                await self._started_acknowledged(job)
            if end.cause is None:
                await self._send_result(job, end)
                await self._end_claim(job, "done")
            else:
                await self._failed(job, end)
        except Fenced:
            log.info("Attempt %d of task %s is dropped: its boot is over", job.task.attempt, job.task.id)
        finally:
            self._started.pop(_key(job), None)
            if end.result_file is not None:
                with contextlib.suppress(OSError):
                    end.result_file.unlink()

    async def close(self) -> None:
        """Sends the replays that wait for their time, now, and waits for all that is on its way: the end of a drain."""
        await self._waiting.close()
        while self._ending:
            await asyncio.wait(self._ending)

    def drop_waiting(self) -> None:
        """The boot is over, and its claims are the reaper's; from the event loop."""
        self._waiting.drop()

    async def _failed(self, job: Job, end: AttemptEnd) -> None:
        assert end.cause is not None
        failure = Failure(
            job.task.attempt,
            end.cause,
            node=self._node.name,
            started_ms=end.started_ms,
            ended_ms=end.ended_ms,
            detail=end.detail,
        )
        if self._is_cancelled(job.task.id):
            await self._send_outcome(job, Over(failure, Reason.CANCELLED), end)
            await self._end_claim(job, "done")
            return
        follows = after(job.task, failure, job.max_attempts, invalid=end.invalid)
        if isinstance(follows, Over):
            await self._send_outcome(job, follows, end)
            await self._end_claim(job, "done")
        elif not follows.wait_s or len(job.claim.tasks) > 1 or not self._waiting.has_room(len(job.task.raw)):
            await self._replay(job, follows)
        else:
            await self._wait(job, follows)

    async def _wait(self, job: Job, again: Again) -> None:
        """Keeps the claim until the replay's time has come, and the failure in it, so that it outlives this node."""
        kept = replace(job.task, ledger=(*job.task.ledger, again.failure))
        await self._send(job, replace(job.claim, tasks=(kept,)).encode())
        self._waiting.add(again.wait_s, len(job.task.raw), lambda: self._replay(job, again))

    async def _replay(self, job: Job, again: Again) -> None:
        self._failpoint("before outcome")
        try:
            await self._send(job, job.task.next_attempt(again.failure))
            await self._end_claim(job, "retried")
        except Fenced:
            log.info("The replay of task %s is left to the reaper: the boot is over", job.task.id)

    async def _end_claim(self, job: Job, why: Why) -> None:
        self._failpoint("before tombstone")
        if self._members.is_last(job.claim):
            # Nobody waits for it: should it be lost with this node, the reaper's attempt runs in vain, no more.
            ending = asyncio.ensure_future(self._tombstone(job, why))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            if len(self._ending) > _MOST_ENDING:
                await asyncio.wait(self._ending, return_when=asyncio.FIRST_COMPLETED)

    async def _tombstone(self, job: Job, why: Why) -> None:
        with contextlib.suppress(Fenced):
            await self._send(job, job.claim.tombstone(why))

    async def _send_outcome(self, job: Job, over: Over, end: AttemptEnd) -> None:
        self._failpoint("before outcome")
        s, ledger = job.submission, (*job.task.ledger, over.failure)
        await self._send(
            job,
            without_result(
                job.task,
                job.claim.for_,
                self._node.name,
                over.reason,
                end.detail,
                name=s.name,
                directory=s.directory,
                ledger=ledger,
                started_ms=end.started_ms,
                ended_ms=end.ended_ms,
            ),
        )

    async def _send_result(self, job: Job, end: AttemptEnd) -> None:
        self._failpoint("before outcome")
        s, t = job.submission, job.task
        whole = Outcome(
            t.id,
            "completed",
            end.value or b"",
            attempt=t.attempt,
            boot=job.claim.for_,
            node=self._node.name,
            source=t.source,
            submitted_ms=t.submitted_ms,
            name=s.name,
            directory=s.directory,
            content_type=end.content_type,
            suffix=end.suffix,
            started_ms=end.started_ms,
            ended_ms=end.ended_ms,
            ledger=t.ledger,
            foreign=t.foreign,
        )
        if end.result_file is None:
            await self._send(job, whole.encode())
        else:
            await self._send_chunks(job, whole, end.result_file)

    async def _send_chunks(self, job: Job, whole: Outcome, path: Path) -> None:
        """One chunk in memory and one on its way: a big result takes no more room than a small one."""
        with await asyncio.to_thread(path.open, "rb") as file:
            chunks = max(1, -(-os.fstat(file.fileno()).st_size // CHUNK_BYTES))
            on_its_way: asyncio.Future[None] | None = None
            for number in range(chunks):
                value = await asyncio.to_thread(_read_chunk, file)
                if on_its_way is not None:
                    await on_its_way
                record = replace(whole, value=value, chunk=number, chunks=chunks).encode()
                on_its_way = asyncio.ensure_future(self._send(job, record))
            if on_its_way is not None:
                await on_its_way

    async def _started_acknowledged(self, job: Job) -> None:
        self.started(job)
        await self._started[_key(job)]

    async def _send(self, job: Job, record: Outgoing) -> None:
        self._check(job)
        await self._acknowledged(record)

    async def _acknowledged(self, record: Outgoing) -> None:
        """Sends until Kafka has it."""
        while True:
            try:
                await asyncio.wrap_future(self._sender.send(record))
                return
            except Retryable as e:
                log_throttled("finish", "A record for %s is sent again: %s", record.topic, e)
                await asyncio.sleep(e.delay_s)

    def _check(self, job: Job) -> None:
        if not self._node.is_current(job.claim.for_):
            raise Fenced


def _key(job: Job) -> Key:
    return job.task.id, job.task.attempt, job.claim.for_


def _read_chunk(file: BinaryIO) -> bytes:
    return file.read(CHUNK_BYTES)
