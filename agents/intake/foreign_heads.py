"""The heads of partitions whose kind only other nodes run: for whom each is claimed, or how long it holds up others.

Used by the intake in its thread. A head goes to a node with room. Without one it waits in its place for `aside_s`, and
then is claimed without being started (`waiting_claims`), so that what is behind it goes on. Only when too many wait
aside does it keep its partition waiting, which health, metrics and the node's heartbeat say.
"""

import time
from dataclasses import dataclass

from headrace.contract.cluster import Wait
from headrace.contract.journal import Claim
from headrace.contract.records import Place

from .admission import Elsewhere
from .commit_batch import CommitBatch
from .delegation import Delegation
from .ready_queue import Pulled

RETRY_S = 0.1  # how often to ask again whether a node that announces the kind has room
_SEEN_S = 3.0  # a head that was not asked about for so long waits no more


@dataclass(slots=True)
class _Head:
    pulled: Pulled
    kind: str
    since_ms: int  # time
    began: float  # monotonic, as the next one
    seen: float


class ForeignHeads:
    """Without a `delegation` every head waits for ever."""

    def __init__(self, delegation: Delegation | None, aside_s: float) -> None:
        self._delegation, self._aside_s = delegation, aside_s
        self._heads: dict[Place, _Head] = {}

    @property
    def are_waiting(self) -> bool:
        """Whether a head holds up its partition, so that offsets may stand still; from any thread."""
        return bool(self._waiting())

    def claim(self, batch: CommitBatch, pulled: Pulled, decision: Elsewhere) -> Claim | None:
        """The claim for the node that is to run the head, noted with the delegation; None while the head waits."""
        kind, delegation = decision.submission.name, self._delegation
        waited_s = self._note(pulled, kind)
        if delegation is None:
            return None
        host, waits = delegation.choose_host(kind), False
        if host is None and (waited_s >= self._aside_s or delegation.waiting.has_kind(kind)):
            host, waits = delegation.choose_host_to_wait_for(kind, len(pulled.task.raw)), True
        if host is None:
            return None
        self._heads.pop(pulled.place, None)
        claim = batch.claim((pulled.task,), host.boot, host.node)
        delegation.note_claim(claim, waits_as=kind if waits else None)
        return claim

    def waits(self) -> list[Wait]:
        """The heads that wait, in words; from any thread."""
        return [_describe(head) for head in self._waiting()]

    def _note(self, pulled: Pulled, kind: str) -> float:
        """Returns for how many seconds the head has waited."""
        now, head = time.monotonic(), self._heads.get(pulled.place)
        if head is None or head.pulled.record.offset != pulled.record.offset:
            head = self._heads[pulled.place] = _Head(pulled, kind, time.time_ns() // 1_000_000, now, now)
        head.seen = now
        return now - head.began

    def _waiting(self) -> list[_Head]:
        now = time.monotonic()
        return [h for h in list(self._heads.values()) if now - h.seen < _SEEN_S and h.seen > h.began]


def _describe(head: _Head) -> Wait:
    task, (topic, partition) = head.pulled.task, head.pulled.place
    text = (
        f"partition {partition} of {topic} waits: its next task, {task.id}, is of kind {head.kind}, which only other "
        "nodes run, and none of them has room"
    )
    return Wait("head", head.kind, task.id, head.since_ms, text, str(task.source))
