"""One gateway for all tests of a module. Each test uses its own task ids, directories and kinds."""

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from headrace.kafka.topics import apply_topics
from headrace.settings import Settings
from tests.rigs.gateway import Gateway, OtherRoles, Stage, gateway
from tests.rigs.topics import PARTITIONS


@pytest.fixture(scope="module")
def stage(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A gateway with its own topics and the kind `prime`."""
    settings = Settings(kafka=broker, topic_prefix=f"g{uuid.uuid4().hex[:8]}.", data=tmp_path_factory.mktemp("gateway"))
    apply_topics(AdminClient({"bootstrap.servers": broker}), settings.topic_prefix, PARTITIONS)
    roles = OtherRoles(settings)
    roles.announce()
    with gateway(settings) as found:
        yield Stage(settings, roles, found)
    roles.close()


@pytest.fixture(scope="module")
def other(stage: Stage) -> Iterator[Gateway]:
    """A second gateway of the same installation, with its own status view."""
    with gateway(stage.settings, "other") as found:
        yield found
