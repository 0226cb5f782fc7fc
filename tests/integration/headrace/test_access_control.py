"""The whole product on a Kafka that trusts nobody: TLS, SCRAM, and no right beyond what `headrace topics acls` prints.

One broker that denies by default, a principal a role. What is applied are the printed lines themselves. A role that
lacked a right, or a client that lacked a security option, would fail here; a submitter that had one too many, too.
"""

import argparse
import json
import shlex
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from pyspark.sql import SparkSession

from headrace.cli.topics import topics
from headrace.kafka.acls import ROLES
from headrace.kafka.client import Kafka
from headrace.kafka.topics import load_topics
from infra.local.cluster import LocalCluster
from infra.local.java import java_home
from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port
from spark_analytics.audit.auditor import Auditor
from spark_analytics.audit.store import Audit
from spark_analytics.counts import KEY
from spark_analytics.job import StatisticsJob
from spark_analytics.metrics import Metrics
from spark_analytics.sinks.memory import MemorySink
from tests.acceptance.conftest import Client, until
from tests.rigs.http import get

pytestmark = pytest.mark.timeout(300)  # the first test waits for a broker of its own and for every role

PREFIX = "secured."
PASSWORD = "a-password"
PRIME = {"name": "prime", "payload": {"upper_bound": 10}, "directory": "d"}
BROKER = """
listener.security.protocol.map=PLAINTEXT:SASL_SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
username="admin" password="{password}" user_admin="{password}";
listener.name.plaintext.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PKCS12
ssl.keystore.location={folder}/broker.p12
ssl.keystore.password={password}
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:ANONYMOUS
allow.everyone.if.no.acl.found=false
"""  # ANONYMOUS is the controller's own listener; on the clients' nobody is


@dataclass(frozen=True)
class Secured:
    """The broker, and a file of security options for each principal."""

    kafka: EmbeddedKafka
    folder: Path

    def file(self, user: str) -> str:
        return str(self.folder / f"{user}.security")

    def options(self, user: str) -> dict[str, str]:
        mechanism = "PLAIN" if user == "admin" else "SCRAM-SHA-512"
        return {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.folder / "ca.pem"),
            "sasl.mechanism": mechanism,
            "sasl.username": user,
            "sasl.password": PASSWORD,
        }

    def write(self, user: str) -> None:
        Path(self.file(user)).write_text("".join(f"{k}={v}\n" for k, v in self.options(user).items()))


def make_certificate(folder: Path) -> None:
    """A broker's certificate that signs itself, with its key in broker.p12, and for those who trust it in ca.pem."""
    keytool = [
        str(java_home() / "bin" / "keytool"),
        "-keystore",
        str(folder / "broker.p12"),
        "-storepass",
        PASSWORD,
        "-alias",
        "broker",
    ]
    for command in (
        [
            "-genkeypair",
            "-keyalg",
            "EC",
            "-dname",
            "CN=broker",
            "-validity",
            "2",
            "-storetype",
            "PKCS12",
            "-ext",
            "san=ip:127.0.0.1",
            "-ext",
            "bc:c",
        ],
        ["-exportcert", "-rfc", "-file", str(folder / "ca.pem")],
    ):
        subprocess.run([*keytool, *command], check=True, capture_output=True)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    make_certificate(folder)
    extra = BROKER.format(password=PASSWORD, folder=folder)
    client = {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(folder / "ca.pem"),
        "sasl.mechanism": "PLAIN",
        "sasl.username": "admin",
        "sasl.password": PASSWORD,
    }
    kafka = EmbeddedKafka(folder / "kafka", f"127.0.0.1:{free_port()}", extra=extra, client=client)
    kafka.start()
    found = Secured(kafka, folder)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, **client})
    users = [f"headrace-{role}" for role in ROLES]
    credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    upserts = [UserScramCredentialUpsertion(user, credential, PASSWORD.encode()) for user in users]
    for done in admin.alter_user_scram_credentials(upserts).values():
        done.result(30)
    for user in (*users, "admin"):
        found.write(user)
    for done in admin.create_acls(printed_acls(kafka.bootstrap)).values():
        done.result(30)
    yield found
    kafka.stop()


def printed_acls(bootstrap: str) -> list[AclBinding]:
    """The lines that the command prints, read as kafka-acls would."""
    given = argparse.ArgumentParser()
    given.add_argument("--add", action="store_true", required=True)
    given.add_argument("--resource-pattern-type", default="literal")
    for name in ("--bootstrap-server", "--command-config", "--allow-principal"):
        given.add_argument(name, required=True)
    for name in ("--operation", "--topic", "--group"):
        given.add_argument(name, action="append", default=[])
    result = CliRunner().invoke(topics, ["acls", "--kafka", bootstrap, "--topic-prefix", PREFIX])
    assert result.exit_code == 0, result.output
    bindings = []
    for line in result.output.splitlines():
        command, *words = shlex.split(line)
        assert command == "kafka-acls.sh"
        found = given.parse_args(words)
        pattern = ResourcePatternType[found.resource_pattern_type.upper()]
        resources = [(ResourceType.TOPIC, t) for t in found.topic] + [(ResourceType.GROUP, g) for g in found.group]
        bindings += [
            AclBinding(
                kind,
                name,
                pattern,
                found.allow_principal,
                "*",
                AclOperation[_upper(operation)],
                AclPermissionType.ALLOW,
            )
            for kind, name in resources
            for operation in found.operation
        ]
    return bindings


def _upper(operation: str) -> str:
    """AlterConfigs -> ALTER_CONFIGS."""
    return "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(operation)).upper()


@pytest.fixture(scope="module")
def product(secured: Secured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Every role as its own principal; the topics made by the operator."""
    cluster = LocalCluster(
        tmp_path_factory.mktemp("product"),
        bootstrap=secured.kafka.bootstrap,
        prefix=PREFIX,
        partitions=2,
        kafka_security=secured.file("headrace-operator"),
        lease_s=30.0,
    )
    for role in cluster.services.values():
        user = f"headrace-{role.name.partition('-')[0]}"
        role.settings = replace(role.settings, kafka_security=secured.file(user))  # type: ignore[attr-defined]
    with cluster:
        yield cluster


@pytest.fixture
def client(product: LocalCluster) -> Iterator[Client]:
    found = Client(product.gateway_url)
    yield found
    found.http.close()


def submitter(secured: Secured) -> Producer:
    options = secured.options("headrace-submitter")
    return Producer({"bootstrap.servers": secured.kafka.bootstrap, "partitioner": "murmur2_random", **options})


def refusal(producer: Producer, topic: str) -> str:
    """What Kafka says to a record of that producer; "" when it takes it."""
    said: list[str] = []
    try:
        producer.produce(
            PREFIX + topic,
            b"{}",
            str(uuid.uuid4()),
            partition=0,
            on_delivery=lambda error, _: said.append(error.name() if error else ""),
        )
    except KafkaException as e:  # the client knows it already
        name: str = e.args[0].name()
        return name
    assert producer.flush(30) == 0
    return said[0]


def test_every_role_does_its_work_under_these_rules(secured: Secured, product: LocalCluster, client: Client) -> None:
    replayed = client.submit("fragile", {"how": "kill", "attempts": 1})
    assert [a["cause"] for a in client.wait(replayed)["attempts"]] == ["process-death", None]
    assert client.http.get(f"/tasks/{replayed}/result").status_code == 200

    by_kafka, unknown = str(uuid.uuid4()), str(uuid.uuid4())
    producer = submitter(secured)
    for task_id, name in ((by_kafka, "prime"), (unknown, "no-such-kind")):
        body = {"name": name, "payload": {"upper_bound": 10}, "directory": "native"}
        producer.produce(f"{PREFIX}tasks.normal", json.dumps(body).encode(), task_id)
    assert producer.flush(30) == 0
    for task_id, status in ((by_kafka, "completed"), (unknown, "failed")):
        until(lambda i=task_id: client.http.get(f"/tasks/{i}").status_code == 200, "known")  # type: ignore[misc]
        assert client.wait(task_id)["status"] == status
    assert unknown in client.http.get("/dead").text

    cancelled = client.submit("fragile", {"attempts": 0, "seconds": 300})
    until(lambda: client.task(cancelled)["status"] == "running", "it runs")
    assert client.http.delete(f"/tasks/{cancelled}").status_code == 202
    assert client.wait(cancelled)["status"] == "cancelled"


def test_a_killed_nodes_successor_takes_over_at_once(product: LocalCluster, client: Client) -> None:
    """Lease and session would take half a minute: leaving the groups and the word of death need rights too."""
    held = client.submit("fragile", {"attempts": 0, "seconds": 3})
    until(lambda: client.task(held)["status"] == "running", "it runs")
    product.restart("worker-1")
    assert client.wait(held)["status"] == "completed"
    assert [a["cause"] for a in client.task(held)["attempts"]] == ["node-loss", None]
    log = (product.folder / "logs" / "worker-1.log").read_text()
    assert "old membership" not in log
    assert "has not let the old member go" not in log
    product.restart("storekeeper")
    assert client.wait(client.submit())["status"] == "completed"
    assert "old membership" not in (product.folder / "logs" / "storekeeper.log").read_text()


def rights(secured: Secured, user: str, *topics: str) -> list[AclBinding]:
    """The rights of a role to write to some topics."""
    names = {PREFIX + topic for topic in topics}
    return [
        acl
        for acl in printed_acls(secured.kafka.bootstrap)
        if acl.principal == f"User:headrace-{user}" and acl.name in names and acl.operation == AclOperation.WRITE
    ]


@contextmanager
def taken_away(secured: Secured, acls: list[AclBinding]) -> Iterator[None]:
    admin = AdminClient({"bootstrap.servers": secured.kafka.bootstrap, **secured.options("admin")})
    filters = [
        AclBindingFilter(
            a.restype, a.name, a.resource_pattern_type, a.principal, a.host, a.operation, a.permission_type
        )
        for a in acls
    ]
    for gone in admin.delete_acls(filters).values():
        assert gone.result(30)
    try:
        yield
    finally:
        for given in admin.create_acls(acls).values():
            given.result(30)


def says(product: LocalCluster, role: str, *words: str) -> bool:
    reasons = get(f"{product.services[role].url}/readyz").json()["reasons"]  # type: ignore[attr-defined]
    return all(any(word in reason and "headrace topics acls" in reason for reason in reasons) for word in words)


def test_rights_that_are_taken_away_and_given_back_lose_nothing(
    secured: Secured, product: LocalCluster, client: Client
) -> None:
    """The roles say which right they lack, keep what they could not write, and write it when they may again."""
    worker = rights(secured, "worker", "results", "tasks.high", "tasks.running", "lifecycle.started", "progress")
    assert len(worker) == 5
    held = [client.submit("fragile", {"attempts": 0, "seconds": 8}) for _ in range(2)]
    until(lambda: all(client.task(i)["status"] == "running" for i in held), "they run")
    with taken_away(secured, worker):
        waiting = client.submit("fragile", {"how": "kill", "attempts": 1})
        until(lambda: says(product, "worker-1", PREFIX + "results", PREFIX + "tasks.running"), "the worker says so")
        assert {client.task(i)["status"] for i in held} == {"running"}
        assert client.task(waiting)["status"] == "queued"
    for task_id in (*held, waiting):
        assert client.wait(task_id)["status"] == "completed"
    assert [[a["cause"] for a in client.task(i)["attempts"]] for i in held] == [[None], [None]]

    with taken_away(secured, rights(secured, "gateway", "tasks.normal")):
        until(lambda: "headrace topics acls" in client.http.post("/tasks", json=PRIME).text, "the client is told")
        until(lambda: says(product, "gateway", PREFIX + "tasks.normal"), "the gateway says so")
    until(lambda: client.http.post("/tasks", json=PRIME).status_code == 202, "it takes tasks again")

    with taken_away(secured, rights(secured, "storekeeper", "lifecycle.completed")):
        ended = client.submit()
        until(lambda: "Topic authorization failed" in readiness(product, "storekeeper"), "the storekeeper says so")
    assert client.wait(ended)["status"] == "completed"


def readiness(product: LocalCluster, role: str) -> str:
    return get(f"{product.services[role].url}/readyz").text  # type: ignore[attr-defined]


class Saved:
    """Keeps audits in the place of the database."""

    def __init__(self) -> None:
        self.audits: list[Audit] = []

    def save(self, audit: Audit) -> None:
        self.audits.append(audit)

    def counts_by_minute(self, first: int, last: int) -> dict[tuple[int, str], int]:
        return {}


def test_the_audit_reads_under_these_rules(
    secured: Secured, product: LocalCluster, client: Client, tmp_path: Path
) -> None:
    assert client.wait(client.submit())["status"] == "completed"
    settings = replace(product.settings, kafka_security=secured.file("headrace-analytics"))
    store = Saved()
    auditor = Auditor(Kafka(settings, "audit"), store, tmp_path, Metrics(), 1.0)
    audit = auditor.audit()
    auditor.stop()
    assert audit.completed > 0
    assert store.audits == [audit]


@pytest.mark.timeout(800)  # Spark may have to be started for it, on a machine that is busy
def test_the_statistics_count_under_these_rules(
    secured: Secured, product: LocalCluster, client: Client, spark: SparkSession, tmp_path: Path
) -> None:
    converted = client.submit("conversion", {"text": "[]", "source": "json", "target": "yaml"})
    assert client.wait(converted)["status"] == "completed"
    settings = replace(product.settings, kafka_security=secured.file("headrace-analytics"), trigger_s=0.5)
    sink = MemorySink()
    job = StatisticsJob(spark, settings, Kafka(settings, "statistics"), sink, tmp_path, Metrics())
    running = threading.Thread(target=job.run)
    running.start()
    try:
        until(lambda: counted(sink, "completed", "conversion") == 1, "it counts", 180)
    finally:
        job.stop()
        running.join(60)
    assert not running.is_alive()


def counted(sink: MemorySink, event: str, name: str) -> int:
    keys = [dict(zip(KEY, key, strict=True)) | {"count": found[0]} for key, found in list(sink.rows.items())]
    return sum(k["count"] for k in keys if (k["measure"], k["event"], k["name"]) == ("events", event, name))


def test_a_submitter_may_write_to_the_queue_alone(secured: Secured) -> None:
    producer = submitter(secured)
    assert refusal(producer, "tasks.normal") == ""
    for topic in load_topics().keys() - {"tasks.normal"}:
        assert refusal(producer, topic) == "TOPIC_AUTHORIZATION_FAILED", topic


def test_nobody_gets_in_without_the_right_password_or_certificate(secured: Secured, tmp_path: Path) -> None:
    for change in ({"sasl.password": "wrong"}, {"security.protocol": "SASL_PLAINTEXT"}, {"ssl.ca.location": None}):
        options = {k: v for k, v in (secured.options("headrace-gateway") | change).items() if v}
        refused = AdminClient({"bootstrap.servers": secured.kafka.bootstrap, "log_level": 0, **options})
        with pytest.raises(KafkaException, match=r"timed out|Timed out|_TIMED_OUT|_TRANSPORT|authentication"):
            refused.list_topics(timeout=2)
