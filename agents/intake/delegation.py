"""Claims for another node: a task whose kind this node lacks is claimed for one that announces it (PROTOCOL, `go`).

The owner of the partition claims with `for` = the other boot, commits, and then writes the same key with phase `go`;
the other follows the journal and starts at `go`, as soon as it has a slot and has read the control log. It ends the
claim. Until `go` the claim is the owner's, from then on the other's: whichever dies, the reaper knows whose it was.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaException

from agents.completion.claim_members import ClaimMembers, send_unstarted_outcome
from agents.completion.outcomes import outcome_without_result
from agents.execution.job import Job, Jobs
from agents.execution.slots import Slots
from agents.intake.admission import Admission, Admitted, Refusal
from agents.intake.cancellations import Cancellations
from agents.membership.identity import NodeIdentity
from agents.membership.registry import Registry
from headrace.contract.cluster import Heartbeat
from headrace.contract.journal import Claim, ClaimKey
from headrace.contract.records import Place, Record
from headrace.contract.states import Reason
from headrace.errors import Retryable
from headrace.kafka.client import Kafka, Sender
from headrace.kafka.follower import Follower
from headrace.kafka.reading import offsets
from headrace.process.failpoints import Failpoint, no_failpoint

log = logging.getLogger(__name__)

_BEGIN_S = 30.0
_SHARE = 2  # claims handed to a node at once, for each of its slots: enough to keep it busy, no more


class Delegation(Follower):
    """Both sides of it, on one node. `hand_over` is called in a thread of its own, with a slot reserved."""

    def __init__(
        self,
        kafka: Kafka,
        sender: Sender,
        node: NodeIdentity,
        slots: Slots,
        view: Registry,
        control: Cancellations,
        hand_over: Callable[[Jobs], None],
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        super().__init__(kafka, "delegation", ["tasks.running"])
        self._sender, self._node, self._slots, self._view, self._control = sender, node, slots, view, control
        self._hand_over, self._failpoint = hand_over, failpoint
        self._admission = Admission(view, control.is_cancelled)
        self._handed: dict[str, str] = {}  # our claims for others that have not ended: key -> boot that runs
        self._lock = threading.Lock()
        self._arrived: queue.Queue[Claim] = queue.Queue()
        self._starter = threading.Thread(target=self._start_arrived, name="delegation-start", daemon=True)

    def start(self) -> None:
        """Call before the first heartbeat: nobody claims for a boot that has not announced itself, so that the journal
        need be read from its present end only. Retryable when Kafka does not say in time where that is."""
        self._read = self._journal_end()
        super().start()
        self._starter.start()

    def close(self) -> None:
        """What has arrived and not started is left to the reaper, once this boot is dead."""
        super().close()
        self._starter.join(5)

    def host(self, kind: str) -> Heartbeat | None:
        """The node to claim for: it runs that kind and has the fewest claims of ours for its slots."""
        with self._lock:
            given = Counter(self._handed.values())
        beats = [
            b
            for b in self._view.failure_detector.live_heartbeats().values()
            if kind in b.kinds and b.state == "alive" and b.boot != self._node.boot and given[b.boot] < _SHARE * b.slots
        ]
        return min(beats, key=lambda b: (given[b.boot] + len(b.running)) / b.slots, default=None)

    def handed(self, claim: Claim) -> None:
        """A claim for another is about to be written."""
        with self._lock:
            self._handed[str(claim.key)] = claim.for_

    def go(self, claim: Claim) -> None:
        """Its commit is accepted: the other may start it."""
        self._failpoint("before go")
        self._sender.send(claim.go().encode())

    def begin(self) -> Mapping[Place, int]:
        return self._read

    def handle(self, record: Record) -> None:
        if record.value is None:
            with self._lock:
                self._handed.pop((record.key or b"").decode(errors="replace"), None)
        elif record.text("phase", "") == "go" and record.text("for", "") == self._node.boot:
            self._arrived.put(Claim.decode(record))

    def turn(self) -> None:
        """Claims for the dead are the reaper's, and do not count any more."""
        with self._lock:
            for key, boot in list(self._handed.items()):
                if self._view.failure_detector.is_dead(boot) or ClaimKey.parse(key.encode()).boot != self._node.boot:
                    del self._handed[key]

    def _journal_end(self) -> dict[Place, int]:
        deadline = time.monotonic() + _BEGIN_S
        topic = self._kafka.topic("tasks.running")
        while True:
            try:
                partitions = self._admin.list_topics(topic, timeout=10).topics[topic].partitions
                return offsets(self._kafka, self._admin, [("tasks.running", p) for p in partitions])
            except (Retryable, KafkaException):
                if time.monotonic() > deadline:
                    raise Retryable("Kafka does not say where the journal ends") from None
                time.sleep(0.1)  # a topic that was made this moment has no leader yet

    def _start_arrived(self) -> None:
        while not self._closing.is_set():
            try:
                claim = self._arrived.get(timeout=0.1)
            except queue.Empty:
                continue
            try:
                self._start(claim)
            except Exception:
                log.exception("Claim %s could not be started; the reaper sends it again", claim.key)

    def _start(self, claim: Claim) -> None:
        """With a slot, and after the control log: `go` may have been written before a cancel."""
        while not self._slots.reserve(1):
            self._slots.wait_free(0.1)
            if self._closing.is_set():
                return
        used = False
        try:
            while not self._control.caught_up(self._control.ends()):
                if self._closing.is_set():
                    return
            used = self._begin(claim)
        finally:
            if not used:
                self._slots.release()

    def _begin(self, claim: Claim) -> bool:
        [task] = claim.tasks
        if not self._node.is_current(claim.for_):
            return False
        verdict = self._admission.judge(task)
        refused = self._admission.at_last(task, verdict) if isinstance(verdict, Admitted) else verdict
        if isinstance(verdict, Admitted) and refused is None:
            self._hand_over([Job(claim, task, verdict.submission, verdict.kind)])
            return True
        if not isinstance(refused, Refusal):  # it was announced, and is not loaded any more
            refused = Refusal(Reason.UNKNOWN_KIND, "the node that announced the kind does not have it any more")
        outcome = outcome_without_result(
            task,
            boot=claim.for_,
            node=self._node.name,
            reason=refused.reason,
            error=refused.error,
            name=refused.name,
            directory=refused.directory,
        )
        send_unstarted_outcome(self._sender, ClaimMembers(), claim, outcome)
        return False
