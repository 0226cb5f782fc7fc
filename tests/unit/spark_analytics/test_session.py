"""The files for HEADRACE_SPARK_JARS, before Spark starts."""

from pathlib import Path

import pytest

from headrace.errors import UsageError
from spark_analytics.session import jar_files


def test_jars_are_files_and_patterns_in_the_order_given(tmp_path: Path) -> None:
    for name in ("b.jar", "a.jar", "other.jar", "notes.txt"):
        (tmp_path / name).touch()
    given = f"{tmp_path}/other.jar, {tmp_path}/[ab].jar"
    assert jar_files(given) == [f"{tmp_path}/{name}" for name in ("other.jar", "a.jar", "b.jar")]


def test_jars_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"HEADRACE_SPARK_JARS.*none\*\.jar"):
        jar_files(f"{tmp_path}/none*.jar")
