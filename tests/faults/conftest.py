"""A supervised product with a broker of its own, for faults that must not touch the other tests."""

import os
from collections.abc import Iterator

import pytest

from infra.chaos.installation import Installation
from infra.local.cluster import LocalCluster
from tests.faults.processes.hard_workload import TASKS

LEASE_S = 8.0
LONG = "HEADRACE_FAULTS_MINUTES" in os.environ  # `make faults`


@pytest.fixture(scope="package")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Four supervised nodes of two slots, three gateways, two storekeepers and a broker, each a process; in the long
    form three brokers, which keep every record three times and acknowledge it when two have it."""
    folder = tmp_path_factory.mktemp("faults")
    brokers = 3 if LONG else 1
    with LocalCluster(
        folder,
        brokers=brokers,
        partitions=8,  # more than nodes
        workers=4,
        storekeepers=2,
        gateways=3,
        supervised=True,
        lease_s=LEASE_S,
        drain_s=10.0,
        tasks=TASKS,
    ) as cluster:
        yield cluster


@pytest.fixture
def installation(product: LocalCluster) -> Iterator[Installation]:
    at = Installation(product.settings, product.pids)
    yield at
    at.close()
