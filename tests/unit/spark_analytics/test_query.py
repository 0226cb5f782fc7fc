"""What the query does with checkpoints before it starts."""

import threading
from pathlib import Path
from typing import Any

from headrace.settings import Settings
from spark_analytics.metrics import Metrics
from spark_analytics.query import CHECKPOINT, Query
from spark_analytics.sinks.memory import MemorySink

NO_SPARK: Any = None


def test_the_state_of_an_earlier_version_is_dropped_and_this_ones_kept(tmp_path: Path) -> None:
    for name in ("checkpoint", "checkpoint-1", CHECKPOINT, "audit"):
        (tmp_path / name / "commits").mkdir(parents=True)
    Query(NO_SPARK, Settings(), MemorySink(), tmp_path, Metrics(), threading.Event()).drop_older_checkpoints()
    assert {p.name for p in tmp_path.iterdir()} == {CHECKPOINT, "audit"}
