"""How `pytest -n` shares the tests among its workers: in groups, the longest first.

A group's tests run on one worker, one after another: those of a file, and those of all files that share what is dear to
start (the product, Spark with its database), for one worker to start it.
"""

from typing import Any

import pytest

# For the environment of Spark: C1's code is there at once, and C2's would come when the test is over.
SHORT_LIVED = "-XX:TieredStopAtLevel=1"

# Group -> the files of it, by how their paths begin. What comes first, starts first.
GROUPS = {
    "statistics": (
        "tests/integration/spark_analytics/test_statistics.py",
        "tests/integration/headrace/test_access_control.py",
        "tests/integration/spark_analytics/test_sinks.py",
        "tests/unit/spark_analytics/",
    ),
    "faults": ("tests/faults/test_random_schedule.py", "tests/faults/test_one_fault.py"),
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
    """Where a test stands in the order of all tests."""
    return next((n for n, (_, start) in enumerate(_ORDER) if nodeid.startswith(start)), len(_ORDER))


def scheduler(config: pytest.Config, log: Any) -> Any:
    """What xdist asks for: it gives each worker that has little left to do the next group."""
    from xdist.scheduler import LoadScopeScheduling

    class InGroups(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # it would put those with the most tests first, which are the quickest
    return InGroups(config, log)
