"""The embedded Apache Kafka: a real broker (KRaft, broker and controller in one process) on loopback.

One node under `up` and in tests; a cluster of three, which shares the code, for the faults that need one. The same
folder goes on where it stopped, after a kill as well. UsageError when it does not come up, with the log's last line.
"""

import base64
import subprocess
import time
import uuid
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.errors import UsageError
from infra.local.artifacts import classpath
from infra.local.java import java
from infra.local.process import free_port, kill, last_line, start_tied, stop

START_TIMEOUT_S = 60.0
# A small heap is plenty here. C1 alone compiles sooner: measured, it lowers the first users' p99 at a little throughput.
JVM_OPTIONS = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:-UsePerfData")

_SERVER = """\
process.roles=broker,controller
node.id={node}
controller.quorum.bootstrap.servers={controllers}
listeners=PLAINTEXT://{host_port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://{host_port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
# a group's first member need not wait for others: nodes come and go one by one here
group.initial.rebalance.delay.ms=0
# above what the task topics keep: Kafka forgets an idle group's offsets otherwise (a year, in minutes)
offsets.retention.minutes=525600
offsets.topic.replication.factor={replication}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replication}
transaction.state.log.min.isr={min_isr}
share.coordinator.state.topic.replication.factor={replication}
share.coordinator.state.topic.min.isr={min_isr}
default.replication.factor={replication}
min.insync.replicas={min_isr}
log.cleaner.dedupe.buffer.size=16777216
# a killed broker registers again at once, and not after the default 9 s
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
{extra}
"""

_LOG4J = """\
Configuration:
  status: WARN
  Appenders:
    RollingFile:
      name: F
      fileName: {path}
      filePattern: {path}.%i
      PatternLayout: {{pattern: "%d %p %m (%c{{1}})%n"}}
      Policies: {{SizeBasedTriggeringPolicy: {{size: 10MB}}}}
      DefaultRolloverStrategy: {{max: 2}}
  Loggers:
    Root: {{level: WARN, AppenderRef: {{ref: F}}}}
"""


class EmbeddedKafka:
    """One broker, with its data in `folder`. `listen` is host:port."""

    def __init__(self, folder: Path, listen: str, *, node: int = 1, cluster: "dict[int, int] | None" = None, extra: str = "") -> None:
        """`cluster`: node id -> controller port of every member, when there are more than this one."""
        self.folder = folder.resolve()
        self.bootstrap = listen
        self.log_file = self.folder / "server.log"
        self._node, self._cluster, self._extra = node, cluster, extra
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Starts the broker without waiting for it."""
        self._format()
        main = ["-cp", classpath("kafka"), f"-Dlog4j2.configurationFile={self.folder / 'log4j2.yaml'}", "kafka.Kafka"]
        self._process = start_tied([java(), *JVM_OPTIONS, *main, str(self.folder / "server.properties")], self.folder / "console.log")

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until the broker answers."""
        deadline = time.monotonic() + timeout_s
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "reconnect.backoff.max.ms": 100, "log_level": 0})
        while True:
            if not self.running:
                raise UsageError(f"Kafka has ended at once: {last_line(self.folder / 'console.log') or last_line(self.log_file)} (log: {self.log_file})")
            try:
                if admin.list_topics(timeout=0.5).brokers:
                    return
            except KafkaException:
                pass
            if time.monotonic() > deadline:
                raise UsageError(f"Kafka is not up after {timeout_s:.0f} s: {last_line(self.log_file)} (log: {self.log_file})")
            time.sleep(0.05)

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def stop(self, timeout_s: float = 20.0) -> None:
        if self._process is not None:
            stop(self._process, timeout_s)

    def kill(self) -> None:
        if self._process is not None:
            kill(self._process)

    def _format(self) -> None:
        """Writes the configuration anew at every start, and formats the storage once."""
        logs = self.folder / "log"
        logs.mkdir(parents=True, exist_ok=True)
        members = self._cluster or {self._node: self._controller_port()}
        count = len(members)
        (self.folder / "log4j2.yaml").write_text(_LOG4J.format(path=self.log_file))
        properties = self.folder / "server.properties"
        properties.write_text(
            _SERVER.format(
                node=self._node, controllers=",".join(f"127.0.0.1:{p}" for p in members.values()), host_port=self.bootstrap,
                controller_port=members[self._node], logs=logs, replication=min(3, count), min_isr=min(2, count), extra=self._extra,
            )
        )  # fmt: skip
        if (logs / "meta.properties").exists():
            return
        voters = ["--standalone"] if count == 1 else ["--initial-controllers", ",".join(
            f"{n}@127.0.0.1:{p}:{_uuid(n)}" for n, p in members.items())]  # fmt: skip
        done = subprocess.run(
            [java(), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classpath("kafka"), "kafka.tools.StorageTool", "format",
             "-t", _uuid(0), "-c", str(properties), *voters], capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            raise UsageError(f"Kafka's storage in {logs} cannot be formatted: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")

    def _controller_port(self) -> int:
        """Chosen once and kept: the quorum's address is part of the formatted storage."""
        kept = self.folder / "controller.port"
        if not kept.exists():
            kept.write_text(str(free_port()))
        return int(kept.read_text())


def _uuid(number: int) -> str:
    """Kafka's way of writing a UUID, fixed for each number: cluster id 0, directory ids by node."""
    raw = uuid.uuid5(uuid.NAMESPACE_OID, f"headrace-embedded-{number}").bytes
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
