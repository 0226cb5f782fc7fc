"""The embedded Apache Kafka: a broker with its KRaft controller, as one process on loopback.

`up` runs one; tests run one for each session, or a cluster of three. The jars come from `infra.local.artifacts`. A
broker goes on with the records in its folder, also after a kill. StartError carries the log's last line.
"""

import base64
import hashlib
import json
import shutil
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.settings import parse_address

from .artifacts import artifact, kafka_classpath
from .java import java, java_home
from .process import bind_error, end_left_over, free_port, last_line
from .service import Service, StartError

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Quorum:
    """The nodes of a cluster: (node id, controller port) of each, and the id that they share."""

    cluster_id: str
    controllers: tuple[tuple[int, int], ...]

    @property
    def voters(self) -> str:
        return ",".join(f"{node}@{_LOOPBACK}:{port}" for node, port in self.controllers)


class EmbeddedKafka(Service):
    """One broker, with configuration and records in `folder`; `listen` is its host:port."""

    def __init__(
        self,
        folder: Path,
        listen: str = "127.0.0.1:9092",
        *,
        logs: Path | None = None,
        node_id: int = 1,
        quorum: Quorum | None = None,
        extra: str = "",
        client: Mapping[str, str] = MappingProxyType({}),
        jvm_options: Sequence[str] = (),
    ) -> None:
        """`logs`: folder of its logs (default `<folder>/logs`). `quorum` None: a cluster of this node alone.

        `extra`: lines for the end of server.properties. `client`: security options for the readiness check.
        `jvm_options`: used instead of the class archive.
        """
        self.folder = folder.absolute()
        self.host, self.port = parse_address(listen, "HEADRACE_EMBEDDED_KAFKA")
        self.node_id = node_id
        self._quorum, self._extra, self._jvm_options = quorum, extra, tuple(jvm_options)
        self._client = dict(client)
        logs = (logs or self.folder / "logs").absolute()
        name = "kafka" if quorum is None else f"kafka-{node_id}"
        super().__init__(name, logs / f"{name}-console.log")
        self.log_file = logs / f"{name}.log"  # log4j's; the console log has the JVM's own output
        self._pid_file = self.folder / "pid"
        self._admin: AdminClient | None = None

    @property
    def bootstrap(self) -> str:
        return f"{self._reached_at}:{self.port}"

    @property
    def _reached_at(self) -> str:
        return _LOOPBACK if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - compared, not bound

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        end_left_over(self._pid_file, str(self.folder / "server.properties"))
        self._admin = None
        quorum = self._quorum or self._own_quorum()
        (self.folder / "log4j2.xml").write_text(_LOG4J.format(file=self.log_file))
        records = self.folder / "records"
        if not (records / "meta.properties").exists():
            self._format(quorum, records)
        (self.folder / "server.properties").write_text(self._properties(quorum, records))

    def command(self) -> list[str]:
        return [*self._java(self._archive()), "kafka.Kafka", str(self.folder / "server.properties")]

    def launch(self) -> None:
        super().launch()
        self._pid_file.write_text(str(self.pid))

    def ready(self) -> bool:
        """Whether it answers, and its cluster lists it as a broker."""
        try:
            if self._admin is None:  # a client that cannot connect backs off: first try the port
                socket.create_connection((self._reached_at, self.port), 0.2).close()
                self._admin = AdminClient(
                    {
                        "bootstrap.servers": self.bootstrap,
                        "reconnect.backoff.max.ms": 100,
                        "log_level": 0,
                        **self._client,
                    }
                )
            known: bool = self.node_id in self._admin.list_topics(timeout=1).brokers
        except (OSError, KafkaException):
            return False
        return known

    def last_line(self) -> str:
        return last_line(self.log_file if self.log_file.exists() else self.log)

    def _own_quorum(self) -> Quorum:
        """Cluster id and controller port of a single node, from `node.json`. A port that is taken is replaced."""
        file = self.folder / "node.json"
        try:
            kept = json.loads(file.read_text())
        except (OSError, ValueError):
            kept = {"cluster_id": new_cluster_id(), "controller_port": free_port()}
        if bind_error(_LOOPBACK, kept["controller_port"]):
            kept["controller_port"] = free_port()
        file.write_text(json.dumps(kept))
        return Quorum(kept["cluster_id"], ((self.node_id, kept["controller_port"]),))

    def _properties(self, quorum: Quorum, records: Path) -> str:
        nodes = len(quorum.controllers)
        controller = dict(quorum.controllers)[self.node_id]
        values = _PROPERTIES | {
            "node.id": self.node_id,
            "controller.quorum.voters": quorum.voters,
            "listeners": f"PLAINTEXT://{self.host}:{self.port},CONTROLLER://{_LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self._reached_at}:{self.port}",
            "log.dirs": records,
        }
        replication, in_sync = min(3, nodes), 2 if nodes >= 3 else 1
        for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
            values |= {
                f"{topic}.replication.factor": replication,
                f"{topic}.num.partitions": _INTERNAL_PARTITIONS,
            }
        for topic in ("transaction.state.log", "share.coordinator.state.topic"):
            values |= {f"{topic}.min.isr": in_sync}
        values |= {"default.replication.factor": replication, "min.insync.replicas": in_sync}
        return "".join(f"{k}={v}\n" for k, v in values.items()) + self._extra + "\n"

    def _format(self, quorum: Quorum, records: Path) -> None:
        """Formats a second folder and renames it, so that the storage is complete or absent."""
        fresh = records.with_name("records.new")
        shutil.rmtree(fresh, ignore_errors=True)
        config = self.folder / "format.properties"
        config.write_text(self._properties(quorum, fresh))
        archive = () if self._jvm_options else self._archive()
        done = subprocess.run(
            [
                *self._java(archive),
                "kafka.tools.StorageTool",
                "format",
                "--cluster-id",
                quorum.cluster_id,
                "--config",
                config,
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise StartError(
                f"Kafka's storage in {records} could not be created: {(done.stderr or done.stdout).strip()}"
            )
        shutil.rmtree(records, ignore_errors=True)
        fresh.rename(records)

    def _archive(self) -> Sequence[str]:
        if self._jvm_options or not class_archive().exists():
            return self._jvm_options
        return (f"-XX:SharedArchiveFile={class_archive()}",)

    def _java(self, options: Sequence[str] = ()) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.xml'}"
        return [java(), *JVM_OPTIONS, *options, logging, "-cp", kafka_classpath()]


def embedded_cluster(folder: Path, ports: Sequence[int], extra: str = "") -> list[EmbeddedKafka]:
    """The brokers of a new cluster, one for each port, not yet started; three of them replicate every record."""
    quorum = Quorum(new_cluster_id(), tuple((n, free_port()) for n in range(1, len(ports) + 1)))
    return [
        EmbeddedKafka(folder / f"kafka-{n}", f"{_LOOPBACK}:{port}", node_id=n, quorum=quorum, extra=extra)
        for n, port in enumerate(ports, 1)
    ]


def class_archive() -> Path:
    """Path of the class archive of a broker for this Java; `infra.local.prepare` creates it."""
    home = java_home()
    release = home / "release"
    digest = hashlib.sha256(f"{home}\0{release.read_text() if release.exists() else ''}\0{kafka_classpath()}".encode())
    return artifact("kafka").parent / f"kafka-classes-{digest.hexdigest()[:12]}.jsa"


def new_cluster_id() -> str:
    """A random id in the form of Kafka's tools: 16 bytes, URL-safe base64, no padding."""
    while (made := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass  # a leading dash would look like an option
    return made


# Only Java's first compiler (C1): its code is ready sooner, so the first users' p99 is lower, and it saves 50 MB.
JVM_OPTIONS = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
)

_INTERNAL_PARTITIONS = 4  # Kafka's 50 are for many brokers, and each costs open files at start

_PROPERTIES: dict[str, object] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",  # only topics.yaml defines topics
    # A killed broker can register again only after its old session: with Kafka's 9 s a restart takes 14 s.
    "broker.session.timeout.ms": 2000,
    "broker.heartbeat.interval.ms": 400,
    # A controller writes an empty record twice a second, each with a sync to disk: a sixth of an idle broker's work.
    "metadata.max.idle.interval.ms": 5000,
    "group.initial.rebalance.delay.ms": 0,  # the first member need not wait 3 s for others
    "offsets.retention.minutes": 2147483647,  # an idle group's offsets must outlive the records of the task topics
    "message.max.bytes": 2097152,  # as topics.yaml
    "replica.fetch.max.bytes": 4194304,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "log.cleaner.dedupe.buffer.size": 16777216,  # Kafka's 128 MB are too much for this heap
    "controlled.shutdown.max.retries": 1,
}

_LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR">
  <Appenders>
    <RollingFile name="file" fileName="{file}" filePattern="{file}.%i">
      <PatternLayout pattern="%d %p %m (%c{{1}})%n"/>
      <SizeBasedTriggeringPolicy size="8 MB"/>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <!-- these log a line for each partition at every start -->
    <Logger name="state.change.logger" level="WARN"/>
    <Logger name="org.apache.kafka.controller" level="WARN"/>
    <Logger name="org.apache.kafka.storage" level="WARN"/>
    <Logger name="kafka.cluster" level="WARN"/>
    <Logger name="kafka.log" level="WARN"/>
    <Root level="INFO"><AppenderRef ref="file"/></Root>
  </Loggers>
</Configuration>
"""
