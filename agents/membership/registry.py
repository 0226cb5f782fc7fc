"""What a node knows of its cluster, read from `nodes`: which boots are alive, and which kinds they announce.

Feeds the failure detector, which the reaper and the admission ask, and the list of dead boots. Calls `on_declared_dead`
for each boot with a death notice: a node that reads its own fences itself.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping

from headrace.contract.cluster import Heartbeat, KindInfo
from headrace.contract.payload_check import PayloadCheck
from headrace.contract.records import Record
from headrace.errors import Undecodable
from headrace.kafka.client import Kafka
from headrace.kafka.follower import Follower

from .dead_boots import DeadBoots
from .failure_detector import FailureDetector

_LOOK_S = 2.0  # how soon a thread that waits for Kafka's answer notices that the node ends


class Registry(Follower):
    """`own`: the kinds that this node's children have loaded; UsageError when a schema of theirs is invalid."""

    def __init__(
        self,
        kafka: Kafka,
        own: Iterable[KindInfo],
        failure_detector: FailureDetector,
        on_declared_dead: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(kafka, "registry", ["nodes"])
        self.failure_detector = failure_detector
        self.on_declared_dead = on_declared_dead
        self.dead_boots = DeadBoots()
        self._own = {kind.name: PayloadCheck(kind) for kind in own}
        self._complete = threading.Event()

    def start(self) -> None:
        super().start()
        threading.Thread(target=self._wait_complete, name="registry-complete", daemon=True).start()

    def is_complete(self) -> bool:
        """Whether everything that other nodes announced before this node came has been read."""
        return self._complete.is_set()

    @property
    def own(self) -> Mapping[str, PayloadCheck]:
        """The payload checks of the kinds that this node runs, by name."""
        return self._own

    def announced(self) -> Collection[str]:
        """Names of the kinds that this node or any other live node runs."""
        names = set(self._own)
        for beat in self.failure_detector.live_heartbeats().values():
            names.update(beat.kinds)
        return names

    def apply_record(self, record: Record) -> None:
        if record.value is None:
            self._forget_boot((record.key or b"").decode(errors="replace"))
        elif Heartbeat.is_heartbeat(record):
            self._record_heartbeat(record)

    def on_turn(self) -> None:
        self.failure_detector.tick()

    def _wait_complete(self) -> None:
        while not self._closing.is_set():
            if self.wait_caught_up(_LOOK_S):
                self._complete.set()
                return

    def _forget_boot(self, boot: str) -> None:
        """Reports the death once more, in case it is this node's own boot and its death notice was never read."""
        self.failure_detector.forget_boot(boot)
        self.dead_boots.forget_boot(boot)
        self.on_declared_dead(boot)

    def _record_heartbeat(self, record: Record) -> None:
        try:
            beat = Heartbeat.decode(record)
        except UnicodeDecodeError:
            raise Undecodable("the key of a heartbeat is a boot id", record.value) from None
        self.failure_detector.record_heartbeat(beat)
        if beat.state == "dead":
            self.dead_boots.note_death(beat.boot)
            self.on_declared_dead(beat.boot)
