"""The statistics on a standalone Spark cluster: a master and two workers from the pip package, one of which dies."""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.settings import Settings
from headrace.storage.mysql import Database
from infra.local import spark_archive
from infra.local.process import free_port
from infra.local.roles import Role, analytics_role
from infra.local.service import Service
from tests.parallel import SHORT_LIVED
from tests.rigs.lifecycle import Sends, flat, recount, stories, wait_until_counted


class SparkPart(Service):
    """A master or a worker; ready when its log says so."""

    def __init__(self, name: str, arguments: list[str], says: str, folder: Path) -> None:
        super().__init__(name, folder / f"{name}.log")
        self._arguments, self._says, self._folder = arguments, says, folder

    def command(self) -> list[str]:
        return [sys.executable, "-m", "infra.spark", *self._arguments]

    def environ(self) -> Mapping[str, str]:
        java = " ".join((*spark_archive.options(), SHORT_LIVED))
        return {
            **os.environ,
            **spark_archive.environ(),
            "JDK_JAVA_OPTIONS": java,  # executors have it too
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_LOCAL_DIRS": str(self._folder),
        }

    def ready(self) -> bool:
        return self.log.exists() and self._says in self.log.read_text()


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[tuple[str, list[SparkPart]]]:
    """The master's URL and its two workers."""
    port, folder = free_port(), tmp_path / "spark"
    folder.mkdir()
    address = f"spark://127.0.0.1:{port}"
    ports = ["--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"]
    master = SparkPart("master", ["master", *ports], "I have been elected leader", folder)
    workers = [
        SparkPart(
            f"worker-{i}",
            [
                "worker",
                address,
                "--host",
                "127.0.0.1",
                "--cores",
                "1",
                "--memory",
                "512m",
                "--webui-port",
                "0",
                "--work-dir",
                str(folder / f"work-{i}"),
            ],
            "Successfully registered with master",
            folder,
        )
        for i in (1, 2)
    ]
    master.start(120)
    for worker in workers:
        worker.launch()
    for worker in workers:
        worker.wait_ready(120)
    yield address, workers
    for part in (*workers, master):
        part.kill()


def has_executor(worker: SparkPart) -> bool:
    return "Asked to launch executor" in worker.log.read_text()


@pytest.mark.timeout(300)
def test_a_worker_that_dies_takes_no_count_with_it(
    standalone: tuple[str, list[SparkPart]],
    statistics_settings: Settings,
    topics: str,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, workers = standalone
    monkeypatch.setenv("SPARK_SUBMIT_OPTS", SHORT_LIVED)
    settings = replace(statistics_settings, spark_master=address, trigger_s=0.5)
    statistics: Role | None = analytics_role(settings, settings.data / "logs")
    assert statistics is not None
    send, told = Sends(settings), stories(200)
    try:
        send(flat(told[:100]))
        statistics.start(180)
        wait_until_counted(database, recount(settings.kafka, topics), 120)
        assert all(map(has_executor, workers)), "the work was to be on both"
        send(flat(told[50:150]))
        workers[0].kill()
        send(flat(told[100:]))
        wait_until_counted(database, recount(settings.kafka, topics), 180)
    finally:
        send.close()
        statistics.kill()
