"""The image, built without an engine and used in containers with the run's broker; needs the image tools.

The checks are those of `python -m infra.image.check`. One product serves them all, in this order.
"""

import uuid
from collections.abc import Iterator

import pytest

from infra.image import check as image_check
from infra.image.build import build
from infra.image.check import Product, product
from infra.image.container import Machine, machine
from infra.local.database import EmbeddedDatabase

# The first build downloads a Debian, a JRE and Spark.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(build(), tmp_path_factory.mktemp("image")) as found:
        yield found


@pytest.fixture(scope="module")
def of(on: Machine, broker: str, mariadb: EmbeddedDatabase) -> Iterator[Product]:
    if not mariadb.alive:
        mariadb.start()
    with product(on, broker, f"i{uuid.uuid4().hex[:8]}.", mariadb.url) as found:
        yield found


def test_it_is_not_root_has_no_build_tools_and_writes_nowhere_but_in_tmp(on: Machine) -> None:
    image_check.check_contents(on)


def test_each_role_explains_itself(on: Machine) -> None:
    image_check.check_help(on)


def test_prime_runs_to_a_stored_result_and_health_checks_pass(of: Product) -> None:
    image_check.check_task(of)


def test_a_worker_killed_in_the_middle_of_a_task_loses_nothing(of: Product) -> None:
    image_check.check_kill(of)


def test_every_role_killed_at_work_loses_nothing(of: Product) -> None:
    image_check.check_kill_all(of)


def test_own_kinds_come_in_an_image_of_two_lines(of: Product) -> None:
    image_check.check_own_kinds(of)


def test_statistics_run_on_spark_in_the_image(of: Product) -> None:
    image_check.check_statistics(of)


def test_sigterm_ends_every_role(of: Product) -> None:
    image_check.check_drain(of)
