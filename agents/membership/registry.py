"""What a node knows of its cluster: which nodes live, and which kinds they announce.

Follows `nodes` and `kinds`; feeds the leases that reaper and admission ask. `on_declared_dead` tells that others have
written `dead` of a boot: a node that hears it of itself fences itself.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping

from agents.membership.dead_boots import DeadBoots
from agents.membership.failure_detector import FailureDetector
from headrace.contract.cluster import Heartbeat, KindInfo
from headrace.contract.payload_check import PayloadCheck
from headrace.contract.records import Record
from headrace.errors import Undecodable
from headrace.kafka.client import Kafka
from headrace.kafka.follower import Follower

_LOOK_S = 2.0  # how soon a thread that waits for Kafka's answer sees that the node ends


class Registry(Follower):
    """`own`: the kinds that this node's children have loaded; UsageError when one's schema is none."""

    def __init__(
        self,
        kafka: Kafka,
        own: Iterable[KindInfo],
        liveness: FailureDetector,
        on_declared_dead: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(kafka, "kinds-view", ["nodes", "kinds"])
        self.liveness = liveness
        self.on_declared_dead = on_declared_dead
        self.dead_boots = DeadBoots()
        self._own = {kind.name: PayloadCheck(kind) for kind in own}
        self._kinds: dict[str, KindInfo] = {}
        self._complete = threading.Event()

    def start(self) -> None:
        super().start()
        threading.Thread(target=self._wait_complete, name="kinds-first", daemon=True).start()

    def is_complete(self) -> bool:
        """Whether all has been read that others announced before this node came."""
        return self._complete.is_set()

    def _wait_complete(self) -> None:
        while not self._closing.is_set():
            if self.wait_caught_up(_LOOK_S):
                self._complete.set()
                return

    @property
    def own(self) -> Mapping[str, PayloadCheck]:
        return self._own

    def announced(self) -> Collection[str]:
        names = set(self._own)
        for beat in self.liveness.alive().values():
            names.update(beat.kinds)
        return names

    def kinds(self) -> Mapping[str, KindInfo]:
        """Every kind that was ever announced."""
        return dict(self._kinds)

    def handle(self, record: Record) -> None:
        if record.topic == "kinds":
            kind = KindInfo.decode(record)
            self._kinds[kind.name] = kind
        elif record.value is None:
            self._gone((record.key or b"").decode(errors="replace"))
        elif Heartbeat.is_one(record):
            self._heartbeat(record)

    def turn(self) -> None:
        self.liveness.turn()

    def _gone(self, boot: str) -> None:
        """Long dead; said to be so once more, in case that it is this node and it has never heard of it."""
        self.liveness.forget(boot)
        self.dead_boots.gone(boot)
        self.on_declared_dead(boot)

    def _heartbeat(self, record: Record) -> None:
        try:
            beat = Heartbeat.decode(record)
        except UnicodeDecodeError:
            raise Undecodable("the key of a heartbeat is a boot id", record.value) from None
        self.liveness.heard(beat)
        self.dead_boots.heard(beat.boot, beat.state == "dead", record.timestamp_ms)
        if beat.state == "dead":
            self.on_declared_dead(beat.boot)
