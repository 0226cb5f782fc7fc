"""Shared by all tests: one real broker a run, and a topic prefix a test, so that tests share it without meeting.

`HEADRACE_TEST_KAFKA` points the run at a broker that is there already.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.settings import Settings
from headrace.topics import apply_topics
from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port

pytest_plugins = ["tests.statistics_fixtures"]


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a real Kafka."""
    if given := os.environ.get("HEADRACE_TEST_KAFKA"):
        yield given
        return
    kafka = EmbeddedKafka(tmp_path_factory.mktemp("broker"), f"127.0.0.1:{free_port()}")
    kafka.start()
    yield kafka.bootstrap
    kafka.stop()


@pytest.fixture
def prefix() -> str:
    """A topic prefix of this test's own."""
    return f"t{uuid.uuid4().hex[:8]}."


@pytest.fixture
def kafka_settings(broker: str, prefix: str, tmp_path: Path) -> Settings:
    """Settings of an installation of this test's own: broker, prefix and data directory; no topics yet."""
    return Settings(kafka=broker, topic_prefix=prefix, data=tmp_path)


@pytest.fixture
def make_topics(broker: str) -> Callable[..., None]:
    """Makes all topics of the contract under a prefix, few partitions for speed: `make_topics(prefix, 4)`."""

    def make(prefix: str, partitions: int = 4) -> None:
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": broker})
        apply_topics(admin, prefix, partitions)

    return make


@pytest.fixture
def topics(make_topics: Callable[..., None], prefix: str) -> str:
    """The prefix, with all topics of the contract made under it, 4 partitions each."""
    make_topics(prefix)
    return prefix
