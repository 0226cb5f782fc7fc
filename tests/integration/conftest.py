"""The gateway on a stage: shared by the tests of a module, which use task ids, directories and kinds of their own."""

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from headrace.kafka.topics import apply_topics
from headrace.settings import Settings
from tests.rigs.gateway import Gateway, Platform, Stage, gateway
from tests.rigs.topics import PARTITIONS


@pytest.fixture(scope="module")
def stage(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A gateway over topics of its own, the kind `prime` announced."""
    settings = Settings(kafka=broker, topic_prefix=f"g{uuid.uuid4().hex[:8]}.", data=tmp_path_factory.mktemp("gateway"))
    apply_topics(AdminClient({"bootstrap.servers": broker}), settings.topic_prefix, PARTITIONS)
    platform = Platform(settings)
    platform.announce()
    with gateway(settings) as found:
        yield Stage(settings, platform, found)
    platform.close()


@pytest.fixture(scope="module")
def other(stage: Stage) -> Iterator[Gateway]:
    """A second gateway of the same installation, with a status view of its own."""
    with gateway(stage.settings, "other") as found:
        yield found
