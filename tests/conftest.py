"""Shared by all tests: one real broker for each run, and a topic prefix for each test, which isolates it.

`HEADRACE_TEST_KAFKA` names an existing broker to use instead. In a run with workers (`pytest -n`) the controller starts
the broker and passes it to them in this variable.
"""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.kafka.topics import apply_topics
from headrace.settings import Settings
from infra.image.build import missing_tools
from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port
from tests.parallel import SHORT_LIVED, place_of, scheduler
from tests.rigs.topics import PARTITIONS

pytest_plugins = ["tests.rigs.statistics"]

_GIVEN = "HEADRACE_TEST_KAFKA"


def pytest_configure(config: pytest.Config) -> None:
    """Starts one broker for all workers of this run, which inherit this environment, as does every Spark of theirs."""
    os.environ.setdefault("SPARK_SUBMIT_OPTS", SHORT_LIVED)
    is_controller = bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")
    if not is_controller or os.environ.get(_GIVEN) or config.option.collectonly:
        return
    folder = tempfile.TemporaryDirectory(prefix="headrace-test-broker-", ignore_cleanup_errors=True)
    kafka = EmbeddedKafka(Path(folder.name), f"127.0.0.1:{free_port()}")
    config.add_cleanup(folder.cleanup)
    config.add_cleanup(kafka.kill)
    kafka.start()
    os.environ[_GIVEN] = kafka.bootstrap
    config.add_cleanup(lambda: os.environ.pop(_GIVEN, None))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if why := missing_tools():
        terminalreporter.write_line(f"NOT TESTED here: the image ({why})", yellow=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=lambda item: place_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return scheduler(config, log)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a real Kafka."""
    if given := os.environ.get(_GIVEN):
        yield given
        return
    kafka = EmbeddedKafka(tmp_path_factory.mktemp("broker"), f"127.0.0.1:{free_port()}")
    kafka.start()
    yield kafka.bootstrap
    kafka.stop()


@pytest.fixture
def prefix() -> str:
    """A topic prefix for this test alone."""
    return f"t{uuid.uuid4().hex[:8]}."


@pytest.fixture
def kafka_settings(broker: str, prefix: str, tmp_path: Path) -> Settings:
    """Settings of an installation for this test alone: broker, prefix and data directory; without topics."""
    return Settings(kafka=broker, topic_prefix=prefix, data=tmp_path)


@pytest.fixture
def make_topics(broker: str) -> Callable[..., None]:
    """Creates all topics of topics.yaml under a prefix, with few partitions for speed: `make_topics(prefix, 2)`."""

    def make(prefix: str, partitions: int = PARTITIONS) -> None:
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": broker})
        apply_topics(admin, prefix, partitions)

    return make


@pytest.fixture
def topics(make_topics: Callable[..., None], prefix: str) -> str:
    """The prefix, after all topics were created under it with PARTITIONS partitions each."""
    make_topics(prefix)
    return prefix


@pytest.fixture
def sender(kafka_settings: Settings, topics: str) -> Iterator[Sender]:
    """A sender for the test's own topics."""
    sender = Sender(Kafka(kafka_settings, "test"))
    yield sender
    sender.close()
