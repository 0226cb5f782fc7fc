"""`headrace up`: the whole product on this machine, from the broker to the statistics, until Ctrl-C.

Imports the user's task kinds once, starts the embedded Kafka, makes the topics, then starts all roles side by side.
MariaDB and the statistics start beside them and delay nothing. UsageError for a wrong setting, if possible before
anything starts.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from confluent_kafka import KafkaException

from headrace.errors import HeadraceError, UsageError
from headrace.installation import check_extras
from headrace.kafka.client import Kafka
from headrace.kafka.topics import apply_topics
from headrace.process.signals import on_signals
from headrace.settings import ADDRESSES, Settings

from .addresses import Addresses
from .data_directory import DataDirectory
from .database import EmbeddedDatabase
from .kafka import EmbeddedKafka
from .kind_check import check_kinds
from .prepare import prepare_kafka, prepare_statistics
from .roles import Role, analytics_role, machine_roles
from .start_checks import check_settings
from .supervisor import Supervisor
from .warmup import TIMEOUT_S, warm_up

_ROLE_GRACE_S = 20.0
_SAME_REQUEST_S = 0.5
_KAFKA_GRACE_S = 20.0


def main(settings: Settings, given: Collection[str] = ADDRESSES) -> int:
    """Runs until SIGINT, SIGTERM or SIGHUP; 0 after a clean stop, 1 when something had to be killed.

    `given`: the settings that a person chose. Addresses that are not among them move to a free port when theirs is in
    use.
    """
    if not settings.kafka:
        prepare_kafka()
    machine = Machine(settings, given)
    on_signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), machine.request_stop)
    machine.data.open()
    try:
        try:
            machine.start()
            machine.wait()
        finally:
            clean = machine.stop()
    finally:
        machine.data.close()
    return 0 if clean else 1


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # a closed terminal must not end the roles
        print(text, flush=True)


class Machine:
    """All parts of one machine. `start()` returns when they are ready; `stop()` leaves no process behind."""

    def __init__(self, settings: Settings, given: Collection[str] = ADDRESSES) -> None:
        """`given` as in `main`."""
        self.data = DataDirectory(settings.data)
        self.settings = replace(settings, data=self.data.path, results=str(settings.results_root.absolute()))
        self._given, self._addresses = given, Addresses(say)
        self._kafka: EmbeddedKafka | None = None
        self._database: EmbeddedDatabase | None = None
        self._supervisor = Supervisor(say, self.data.write_running)
        self._stop_requested, self._forced = threading.Event(), threading.Event()
        self._stop_requested_at = 0.0
        self._ready = threading.Event()

    def request_stop(self) -> None:
        """The first call requests an orderly stop, a second one kills what is left.

        A second call within `_SAME_REQUEST_S` is ignored: some programs signal the process and then its group.
        """
        if not self._stop_requested.is_set():
            self._stop_requested_at = time.monotonic()
            self._stop_requested.set()
        elif time.monotonic() - self._stop_requested_at > _SAME_REQUEST_S:
            self._forced.set()

    def start(self) -> None:
        begun = time.monotonic()
        check_settings(self.settings)
        self._make_embedded_parts()
        roles = machine_roles(self.settings, self.data.logs)
        check_kinds(self.settings, self.data.logs, self._stop_requested.is_set)
        if self._kafka is not None:
            self._start_kafka(self._kafka)
        if self._stop_requested.is_set():
            return
        self._make_topics()
        watches = [self._supervisor.watch(role, role.listens) for role in roles]
        threading.Thread(target=self._start_statistics, name="statistics", daemon=True).start()
        if self._kafka is not None:
            warming = threading.Thread(target=warm_up, args=(self._kafka.bootstrap,), name="warm-up", daemon=True)
            warming.start()
            warming.join(TIMEOUT_S)  # its cleaning up need not be waited for
        for watch in watches:
            while not watch.settled.wait(0.1):
                if self._stop_requested.is_set():
                    return
            if watch.failure:
                raise UsageError(f"{watch.service.name} does not start: {watch.failure}")
        say(self._ready_line(roles, time.monotonic() - begun))
        self._ready.set()

    def wait(self) -> None:
        """Waits until a stop is requested."""
        while not self._stop_requested.wait(3600):
            pass

    def stop(self) -> bool:
        """Stops workers first and Kafka last; True when everything ended by itself."""
        clean = self._supervisor.stop(
            (
                ("worker-", self.settings.drain_s + 10),  # running tasks get the drain time
                ("gateway", _ROLE_GRACE_S),
                ("storekeeper", _ROLE_GRACE_S),
                ("analytics", _ROLE_GRACE_S),
                ("database", _ROLE_GRACE_S),
                ("kafka", _KAFKA_GRACE_S),
            ),
            self._forced,
        )
        self.data.forget_running()
        self._addresses.release()
        say("stopped")
        return clean

    def _make_embedded_parts(self) -> None:
        """Settles all addresses, and gives the roles those of the embedded parts."""
        own = self.settings
        settled = self._addresses.settle(own, self._given, self.data.read_moved())
        self.data.write_moved({n: getattr(settled, n) for n in ADDRESSES if getattr(settled, n) != getattr(own, n)})
        if not settled.kafka:
            self._kafka = EmbeddedKafka(self.data.path / "kafka", settled.embedded_kafka, logs=self.data.logs)
            settled = replace(settled, kafka=self._kafka.bootstrap)
        if not settled.database:
            self._database = EmbeddedDatabase(
                self.data.path / "database", settled.embedded_database, logs=self.data.logs
            )
            settled = replace(settled, database=self._database.url)
        self.settings = settled
        self.data.addresses = {name: getattr(settled, name) for name in ADDRESSES}

    def _start_kafka(self, kafka: EmbeddedKafka) -> None:
        watch = self._supervisor.watch(kafka, kafka.bootstrap)
        while not watch.settled.wait(0.02):
            if self._stop_requested.is_set():
                return
        if watch.failure:
            raise UsageError(watch.failure)

    def _make_topics(self) -> None:
        admin = Kafka(self.settings, "headrace-up").admin()
        try:
            refused = [c for c in apply_topics(admin, self.settings.topic_prefix) if c.refused]
        except KafkaException as e:
            raise UsageError(
                f"Kafka at {self.settings.kafka} cannot be used ({e.args[0].str()}): check HEADRACE_KAFKA and "
                "HEADRACE_KAFKA_SECURITY, or leave HEADRACE_KAFKA empty for the embedded broker"
            ) from None
        for change in refused:
            say(f"topic {change.topic} {change.what}: {change.fix}")

    def _start_statistics(self) -> None:
        """Runs in a thread: a failure is printed, and stops nothing else."""
        try:
            check_extras("headrace analytics", ["analytics"])
            if self._database is not None:
                watch = self._supervisor.watch(self._database, f"{self._database.host}:{self._database.port}")
                watch.settled.wait()
                if watch.failure:
                    raise UsageError(watch.failure)
            # Spark's start keeps all cores busy for seconds: the roles that run tasks come first
            while not self._ready.wait(0.2):
                if self._stop_requested.is_set():
                    return
            prepare_statistics()
            if not self._stop_requested.is_set():
                role = analytics_role(self.settings, self.data.logs)
                self._supervisor.watch(role, role.listens)
        except HeadraceError as e:
            say(f"the statistics do not run: {e}")

    def _ready_line(self, roles: list[Role], took_s: float) -> str:
        gateway, *others = [r.url for r in roles if r.role == "gateway"]
        stats = [r.url for r in roles if r.role == "worker"]
        more = f" (also {' '.join(f'{url}/' for url in others)})" if others else ""
        pages = f", stats pages {' '.join(f'{url}/' for url in stats)}" if stats else ""
        hints = f"logs in {_short(self.data.logs)}; Ctrl-C stops everything"
        return f"ready in {took_s:.1f} s: web page {gateway}/{more}{pages} ({hints})"


def _short(path: Path) -> str:
    """Relative to the current directory, if it is below that."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


if __name__ == "__main__":
    sys.exit(main(Settings.load()))
