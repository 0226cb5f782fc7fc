"""Step 4 of the protocol (docs/protocol.md): what follows an attempt's end.

Three records, each acknowledged before the next is sent: started, then the outcome or the next attempt, then the
claim's tombstone. Used by the worker agent, in its event loop. Waits through any outage of Kafka. Once the node has
fenced itself, everything of the old boot is dropped: other nodes run its tasks now.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from headrace.contract.journal import Why
from headrace.contract.ledger import Failure
from headrace.contract.lifecycle import started_event
from headrace.contract.outcome import CHUNK_BYTES, Outcome
from headrace.contract.printable import printable
from headrace.contract.records import Outgoing
from headrace.contract.states import Reason
from headrace.errors import Retryable
from headrace.kafka.answers import is_taken, wait_answered
from headrace.kafka.sender import Sender, Sent
from headrace.process.failpoints import Failpoint, no_failpoint
from headrace.process.throttled_log import log_throttled

from ..execution.job import AttemptEnd, Job, Key
from ..membership.identity import NodeIdentity
from .claim_members import ClaimMembers
from .delayed_retries import DelayedRetries
from .outcomes import completed_outcome, outcome_without_result
from .retry_policy import GiveUp, Retry, after_failure

log = logging.getLogger(__name__)

_StartedKey = tuple[Key, str]  # the job's key, and the boot that runs it

_MAX_TOMBSTONES_IN_FLIGHT = 256  # beyond it, attempts wait for their tombstones
_TOGETHER_S = 1.0  # for Kafka's answers to many records; beyond it no attempt waits for another one's
_AGAIN_S = 1.0  # after an error that is not Kafka's


class Fenced(Exception):
    """The boot that ran the attempt is over: nothing more may be sent for it."""


class Finisher:
    """All methods belong to the event loop. `is_cancelled` takes a task id."""

    def __init__(
        self,
        sender: Sender,
        node: NodeIdentity,
        *,
        is_cancelled: Callable[[str], bool] = lambda _: False,
        failpoint: Failpoint = no_failpoint,
        members: ClaimMembers | None = None,
    ) -> None:
        """`members` is shared with the intake."""
        self._sender, self._node, self._is_cancelled, self._failpoint = sender, node, is_cancelled, failpoint
        self._started: dict[_StartedKey, Sent] = {}
        self._outcomes: dict[_StartedKey, Sent] = {}  # sent by `finish_completed`, and not answered yet
        self._members = members or ClaimMembers()
        self._delayed_retries = DelayedRetries()
        self._tombstones: dict[asyncio.Future[None], Job] = {}  # that Kafka has not acknowledged yet
        self._told = set[_StartedKey]()  # Kafka has what follows; their claims are not ended yet

    def started(self, job: Job) -> None:
        """Sends lifecycle.started without waiting, once for each attempt however often it is called."""
        key = _key(job)
        if key not in self._started:
            s = job.submission
            record = started_event(job.task, s.name, s.directory, self._node.name, job.claim.for_)
            self._started[key] = self._sender.deliver(record)

    async def finish(self, job: Job, end: AttemptEnd) -> None:
        """Returns when Kafka has the outcome or the next attempt; at once, with nothing sent, when the boot is over.

        After an error the caller calls it again, with another end perhaps. What Kafka has is not sent a second time.
        """
        try:
            self._check_current(job)
            if _key(job) in self._told:
                await self._end_claim(job, "done")
                return
            if end.begun:
                await self._wait_started(job)
            if end.cause is None:
                await self._send_result(job, end)
                await self._end_claim(job, "done")
            else:
                await self._finish_failed(job, end)
        except Fenced:
            log.info("Attempt %d of task %s is dropped: its boot is over", job.task.attempt, job.task.id)
        finally:
            self._started.pop(_key(job), None)
            self._outcomes.pop(_key(job), None)
            if not self._node.is_current(job.claim.for_):
                self._told.discard(_key(job))
            if end.result_file is not None:
                with contextlib.suppress(OSError):
                    end.result_file.unlink()

    async def finish_completed(self, ended: Sequence[tuple[Job, AttemptEnd]]) -> Sequence[tuple[Job, AttemptEnd]]:
        """Finishes many attempts together: waits for each of the protocol's steps once for all of them. Never raises.

        Returns those that `finish` has still to be called for: all but completed attempts with a small result, those of
        earlier boots, and those whose outcome Kafka has not taken, or not yet: `finish` waits for it then.
        """
        rest = dict(enumerate(ended))
        simple = {n: (job, end) for n, (job, end) in rest.items() if self._is_simple(job, end)}
        try:
            for job, _ in simple.values():
                self.started(job)
            await wait_answered([self._started[_key(job)] for job, _ in simple.values()], _TOGETHER_S)
            for job, end in simple.values():
                if self._started[_key(job)].done():
                    self._send_outcome_now(job, end)
            sent = {n: self._outcomes[_key(job)] for n, (job, _) in simple.items() if _key(job) in self._outcomes}
            await wait_answered(list(sent.values()), _TOGETHER_S)
            for n in [n for n, answer in sent.items() if is_taken(answer)]:
                job, _ = simple[n]
                await self._end_claim(job, "done")
                self._started.pop(_key(job), None)
                self._outcomes.pop(_key(job), None)
                del rest[n]
        except Exception:
            log.exception("%d attempts could not be finished together: the rest is finished one by one", len(simple))
        return list(rest.values())

    async def close(self) -> None:
        """For the end of a drain: sends the delayed retries now; returns when Kafka has everything."""
        await self._delayed_retries.close()
        while self._tombstones:
            await asyncio.wait(self._tombstones)

    def held(self) -> set[Key]:
        """The jobs whose retry waits, or whose claim is being ended."""
        return self._delayed_retries.keys() | {job.key for job in self._tombstones.values()}

    def drop_delayed_retries(self) -> None:
        """The boot is over, and the reaper sends the retries from its claims."""
        self._delayed_retries.cancel_all()

    def _is_simple(self, job: Job, end: AttemptEnd) -> bool:
        return end.begun and end.cause is None and end.result_file is None and _key(job) not in self._told

    def _send_outcome_now(self, job: Job, end: AttemptEnd) -> None:
        """Without waiting; not when the boot is over."""
        if self._node.is_current(job.claim.for_):
            self._failpoint("before outcome")
            self._outcomes[_key(job)] = self._sender.send(completed_outcome(job, end, self._node.name).encode())

    async def _finish_failed(self, job: Job, end: AttemptEnd) -> None:
        assert end.cause is not None
        failure = Failure(
            job.task.attempt,
            end.cause,
            node=self._node.name,
            started_ms=end.started_ms,
            ended_ms=end.ended_ms,
            detail=printable(end.detail),
        )
        if self._is_cancelled(job.task.id):
            await self._send_outcome(job, GiveUp(failure, Reason.CANCELLED), end)
            await self._end_claim(job, "done")
            return
        follows = after_failure(job.task, failure, job.max_attempts, invalid=end.invalid, permanent=end.permanent)
        if isinstance(follows, GiveUp):
            await self._send_outcome(job, follows, end)
            await self._end_claim(job, "done")
        elif not follows.wait_s or len(job.claim.tasks) > 1 or not self._delayed_retries.has_room(len(job.task.raw)):
            await self._send_retry(job, follows)
        else:
            await self._delay_retry(job, follows)

    async def _delay_retry(self, job: Job, retry: Retry) -> None:
        """Writes the claim again with the failure in it, so that the retry outlives this node, and schedules it."""
        failed = replace(job.task, ledger=(*job.task.ledger, retry.failure))
        await self._send(job, replace(job.claim, tasks=(failed,)).encode())
        self._delayed_retries.schedule(
            retry.wait_s, len(job.task.raw), lambda: self._send_delayed_retry(job, retry), job.key
        )

    async def _send_delayed_retry(self, job: Job, retry: Retry) -> None:
        """Nobody else has the job any more: it is tried until Kafka has the retry."""
        while True:
            try:
                await self._send_retry(job, retry)
                return
            except Fenced:
                log.info("The retry of task %s is left to the reaper: its boot is over", job.task.id)
                return
            except Exception:
                log.exception("The retry of task %s could not be sent, and is sent again", job.task.id)
                await asyncio.sleep(_AGAIN_S)

    async def _send_retry(self, job: Job, retry: Retry) -> None:
        if _key(job) not in self._told:
            self._failpoint("before outcome")
            await self._send(job, job.task.next_attempt(retry.failure))
        await self._end_claim(job, "retried")

    async def _end_claim(self, job: Job, why: Why) -> None:
        """Kafka has what follows. The claim ends with its last member."""
        self._told.add(_key(job))
        self._failpoint("before tombstone")
        is_last = self._members.end_member(job.claim)
        self._told.discard(_key(job))
        if is_last:
            # Sent without waiting: if it is lost with this node, the reaper makes one attempt in vain, nothing worse.
            sending = asyncio.ensure_future(self._send_tombstone(job, why))
            self._tombstones[sending] = job
            sending.add_done_callback(self._tombstones.pop)
            if len(self._tombstones) > _MAX_TOMBSTONES_IN_FLIGHT:
                await asyncio.wait(self._tombstones, return_when=asyncio.FIRST_COMPLETED)

    async def _send_tombstone(self, job: Job, why: Why) -> None:
        while True:
            try:
                await self._send(job, job.claim.tombstone(why), unhurried=True)
                return
            except Fenced:
                return
            except Exception:
                log.exception("The end of claim %s could not be sent, and is sent again", job.claim.key)
                await asyncio.sleep(_AGAIN_S)

    async def _send_outcome(self, job: Job, end_of_task: GiveUp, end: AttemptEnd) -> None:
        self._failpoint("before outcome")
        await self._send(
            job,
            outcome_without_result(
                job.task,
                boot=job.claim.for_,
                node=self._node.name,
                reason=end_of_task.reason,
                error=end.detail,
                name=job.submission.name,
                directory=job.submission.directory,
                ledger=(*job.task.ledger, end_of_task.failure),
                started_ms=end.started_ms,
                ended_ms=end.ended_ms,
            ),
        )

    async def _send_result(self, job: Job, end: AttemptEnd) -> None:
        sent = self._outcomes.get(_key(job))
        if sent is not None:
            await wait_answered([sent])
            if is_taken(sent):
                return
        self._failpoint("before outcome")
        whole = completed_outcome(job, end, self._node.name)
        if end.result_file is None:
            await self._send(job, whole.encode())
        else:
            await self._send_chunks(job, whole, end.result_file)

    async def _send_chunks(self, job: Job, whole: Outcome, path: Path) -> None:
        """Reads one chunk while the one before it is sent, so that memory does not grow with the result."""
        with await asyncio.to_thread(path.open, "rb") as file:
            chunks = max(1, -(-os.fstat(file.fileno()).st_size // CHUNK_BYTES))
            sending: asyncio.Future[None] | None = None
            for number in range(chunks):
                value = await asyncio.to_thread(_read_chunk, file)
                if sending is not None:
                    await sending
                record = replace(whole, value=value, chunk=number, chunks=chunks).encode()
                sending = asyncio.ensure_future(self._send(job, record))
            if sending is not None:
                await sending

    async def _wait_started(self, job: Job) -> None:
        self.started(job)
        await wait_answered([self._started[_key(job)]])

    async def _send(self, job: Job, record: Outgoing, *, unhurried: bool = False) -> None:
        """Returns when Kafka has the record; Fenced as soon as the boot is over."""
        while True:
            self._check_current(job)
            try:
                await asyncio.wrap_future(self._sender.send(record, unhurried=unhurried))
                return
            except Retryable as e:
                log_throttled("finish", "A record for %s is sent again: %s", record.topic, e)
                await asyncio.sleep(e.delay_s)

    def _check_current(self, job: Job) -> None:
        if not self._node.is_current(job.claim.for_):
            raise Fenced


def _key(job: Job) -> _StartedKey:
    return job.key, job.claim.for_


def _read_chunk(file: BinaryIO) -> bytes:
    return file.read(CHUNK_BYTES)
