"""The parts of a worker node, each made once and connected to those it calls.

Called by `agents.worker.node`, which starts, drains and closes them. Making them sends nothing and takes no task.
UsageError when the payload schema of one of the node's own kinds is not valid.
"""

from dataclasses import dataclass

from headrace.contract.cluster import KindInfo, Wait
from headrace.kafka.client import Kafka
from headrace.kafka.groups import INTAKE_GROUP
from headrace.kafka.lag import LagWatch
from headrace.kafka.log_notes import LogNotes
from headrace.kafka.sender import Sender
from headrace.process.failpoints import Failpoint
from headrace.settings import Settings

from ..completion.claim_members import ClaimMembers
from ..completion.finisher import Finisher
from ..execution.job import Key
from ..execution.pool import Pool
from ..execution.slots import Slots
from ..intake.cancellations import Cancellations
from ..intake.delegation import Delegation
from ..intake.intake import Intake
from ..intake.micro_batching import RunTimes
from ..intake.open_claims import job_keys
from ..membership.failure_detector import FailureDetector
from ..membership.heartbeats import Heartbeats
from ..membership.identity import NodeIdentity
from ..membership.registry import Registry
from ..monitoring.protocol_metrics import ProtocolMetrics
from ..monitoring.stats import NodeStats
from ..monitoring.wait_metrics import WaitMetrics
from ..receiver.receiver import Receiver
from ..recovery.reaper import Reaper
from ..recovery.trimmer import Trimmer
from .agent import Worker
from .conservation import Conservation
from .log_upkeep import LogUpkeep

TOPICS = (
    "tasks.normal",
    "tasks.high",
    "tasks.running",
    "tasks.control",
    "results",
    "nodes",
    "kinds",
    "lifecycle.received",
    "lifecycle.started",
    "progress",
)


@dataclass(frozen=True, slots=True)
class NodeResources:
    """What the node's process has before its parts are made."""

    settings: Settings
    kafka: Kafka
    sender: Sender
    node: NodeIdentity
    pool: Pool  # started
    kinds: list[KindInfo]  # loaded by the pool's children
    failpoint: Failpoint


class WorkerParts:
    """All parts of one node but the fence, which `agents.worker.node` hooks into its own event loop."""

    def __init__(self, resources: NodeResources) -> None:
        r = self._resources = resources
        self.slots, self.stats = Slots(r.settings.slot_count), NodeStats()
        self._members, self._run_times = ClaimMembers(), RunTimes()
        self._metrics = ProtocolMetrics(self.stats.registry)
        self.registry = Registry(r.kafka, r.kinds, FailureDetector(r.settings.lease_s))
        self.cancellations = Cancellations(r.kafka, r.node.control_path)
        self.stats.registry.register(self.cancellations.rebuilds)
        self.finisher = self._make_finisher()
        self.worker = self._make_worker()
        self.delegation = self._make_delegation()
        self.intake = self._make_intake()
        stats_url = f"http://{r.settings.stats_http}/"
        self.heartbeats = Heartbeats(
            r.sender,
            r.node,
            slots=self.slots.total,
            kinds=r.kinds,
            running=r.pool.running,
            waits=self.waits,
            stats_url=stats_url,
        )
        self.stats.registry.register(WaitMetrics(self.waits))
        self.conservation = self._make_conservation()
        self.reaper = self._make_reaper()
        self.receiver = Receiver(r.kafka, r.sender, self._metrics, r.node.remember_member)
        self.task_lag = self._make_task_lag()
        self.log_upkeep = LogUpkeep(r.settings.results_root, r.settings.log_days)
        self.log_notes = LogNotes(r.kafka, TOPICS, self.stats.registry)
        for reader in (self.registry, self.cancellations, self.delegation, self.reaper):
            reader.on_undecodable = self.stats.count_undecodable

    def _make_finisher(self) -> Finisher:
        r = self._resources
        return Finisher(
            r.sender,
            r.node,
            is_cancelled=self.cancellations.is_cancelled,
            failpoint=r.failpoint,
            members=self._members,
        )

    def _make_worker(self) -> Worker:
        node = self._resources.node
        return Worker(
            self.slots,
            self._resources.pool,
            self.finisher,
            self.stats,
            self._run_times,
            is_ours=lambda job: job.claim.for_ == node.boot,
            is_cancelled=self.cancellations.is_cancelled,
        )

    def _make_delegation(self) -> Delegation:
        r = self._resources
        return Delegation(
            r.kafka,
            r.sender,
            r.node,
            slots=self.slots,
            registry=self.registry,
            cancellations=self.cancellations,
            hand_over=self.worker.hand_over,
            failpoint=r.failpoint,
        )

    def _make_intake(self) -> Intake:
        r = self._resources
        return Intake(
            r.kafka,
            r.sender,
            r.node,
            slots=self.slots,
            registry=self.registry,
            cancellations=self.cancellations,
            hand_over=self.worker.hand_over,
            hand_over_lost=self.worker.hand_over_lost,
            failpoint=r.failpoint,
            delegation=self.delegation,
            run_times=self._run_times,
            members=self._members,
            metrics=self._metrics,
            aside_s=r.settings.aside_s,
        )

    def waits(self) -> list[Wait]:
        """What stands still on this node, and until when; from any thread."""
        return [*self._resources.pool.waits(), *self.intake.foreign_heads.waits(), *self.delegation.waiting.waits()]

    def _make_conservation(self) -> Conservation:
        node, sender = self._resources.node, self._resources.sender
        return Conservation(
            lambda: self.delegation.open_claims.of_boot(node.boot),
            self._held_jobs,
            self.worker.held,
            read_journal=self.delegation.wait_caught_up,
            trouble=sender.check,
            metrics=self._metrics,
        )

    def _held_jobs(self) -> set[Key]:
        claims = [*self.intake.held(), *self.delegation.held()]  # first: jobs go on from there to the worker agent
        in_hand = {key for claim in claims for key in job_keys(claim)}
        return in_hand | self.worker.held() | self.finisher.held()

    def _make_reaper(self) -> Reaper:
        r = self._resources
        trimmer = Trimmer(r.kafka, r.settings.keep_s, failpoint=r.failpoint, metrics=self._metrics)
        return Reaper(
            r.kafka,
            r.sender,
            r.node,
            self.registry,
            failpoint=r.failpoint,
            trimmer=trimmer,
            metrics=self._metrics,
        )

    def _make_task_lag(self) -> LagWatch:
        """The backlog of the task topics. Offsets may stand still while no slot is free or another node must run."""
        return LagWatch(
            self._resources.kafka,
            INTAKE_GROUP,
            lambda: self.intake.places,
            is_excused=lambda: not self.slots.free or self.intake.foreign_heads.are_waiting,
        )
