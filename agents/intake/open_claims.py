"""The open claims of this node's boot as the journal has them: what the reaper would send again if the node died now.

Fed by the delegation, which follows the journal; read by the node's conservation check. Submissions are not kept, so
memory is bounded by the work in flight. All methods are safe from any thread.
"""

import threading

from headrace.contract.journal import Claim
from headrace.contract.records import Record

from ..execution.job import Key


def job_keys(claim: Claim) -> frozenset[Key]:
    """The keys of the jobs that a claim is for."""
    return frozenset((task.id, task.attempt, task.source) for task in claim.tasks)


class OpenClaims:
    """By the claim's key. A boot is responsible for its claims until `go`, and from `go` on for those made for it."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, frozenset[Key]]] = {}  # claim key -> responsible boot, jobs
        self._lock = threading.Lock()

    def apply_record(self, record: Record, boot: str) -> None:
        """Takes in a record of the journal. `boot` is the node's own; Undecodable for a malformed claim of it."""
        key = (record.key or b"").decode(errors="replace")
        is_ours = record.value is not None and _responsible(record) == boot
        jobs = job_keys(Claim.decode(record)) if is_ours else frozenset()
        with self._lock:
            self._open.pop(key, None)
            if is_ours:
                self._open[key] = boot, jobs

    def of_boot(self, boot: str) -> dict[str, frozenset[Key]]:
        """The jobs of each open claim. Forgets those of the node's earlier boots, which are the reaper's."""
        with self._lock:
            self._open = {key: found for key, found in self._open.items() if found[0] == boot}
            return {key: jobs for key, (_, jobs) in self._open.items()}


def _responsible(record: Record) -> str:
    return record.text("for" if record.text("phase", "") == "go" else "by", "")
