"""How `pytest -n` distributes the tests to its workers: in groups, the longest first.

A group's tests run on one worker, one after another. A group is a file, or all files that share an expensive fixture
(the product, Spark with its database), so that one worker alone starts it.
"""

from typing import Any

import pytest

# For Spark's JVM: C1's code is ready at once, and C2's would only be ready after the test.
SHORT_LIVED = "-XX:TieredStopAtLevel=1"

# Group -> the beginnings of its files' paths. Earlier groups start first.
GROUPS = {
    "statistics": (
        "tests/integration/spark_analytics/test_statistics.py",
        "tests/integration/headrace/test_access_control.py",
        "tests/integration/spark_analytics/test_sinks.py",
        "tests/unit/spark_analytics/",
    ),
    "faults": (
        "tests/faults/test_random_schedule.py",
        "tests/faults/test_one_fault.py",
        "tests/faults/test_copies_of_an_id.py",
    ),
    "standalone": ("tests/integration/spark_analytics/test_spark_cluster.py",),
    "kills": ("tests/faults/test_statistics_kills.py",),
    "image": ("tests/integration/infra/test_image.py",),
    "database": (
        "tests/integration/spark_analytics/test_audit.py",
        "tests/integration/infra/test_embedded_database.py",
        "tests/integration/gateway/test_statistics.py",
        "tests/acceptance/test_statistics_page.py",
    ),
    "product": ("tests/acceptance/",),
    "up": ("tests/integration/infra/test_up.py",),
}
_ORDER = [(group, start) for group, starts in GROUPS.items() for start in starts]


def group_of(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return next((group for group, start in _ORDER if file.startswith(start)), file)


def place_of(nodeid: str) -> int:
    """The position of a test in the order of all tests."""
    return next((n for n, (_, start) in enumerate(_ORDER) if nodeid.startswith(start)), len(_ORDER))


def scheduler(config: pytest.Config, log: Any) -> Any:
    """xdist's scheduler, which gives the next group to each worker that has little left to do."""
    from xdist.scheduler import LoadScopeScheduling

    class InGroups(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = (
        False  # it would start the groups with the most tests first, which are the quickest
    )
    return InGroups(config, log)
