"""Rounds of measurements, interleaved: each system once in every round, so that a change of the machine meets all.

Every measurement is a process of its own (`measure`), on one broker and one Redis for the whole run. One that fails or
takes too long leaves an error among the figures, and the run goes on.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port, last_line, run_tied
from infra.local.service import Service

from .bench import Bench
from .measure import LIMIT_S, MARK
from .peers_venv import peers_python
from .redis_server import RedisServer
from .systems import SYSTEMS

_STOP_S = 60.0  # after the limit, in which a measurement stops its system
# Each of these tuples is one process; a crash row needs a fresh one.
GROUPS = (("H", "A", "U", "B", "C", "K", "D", "E", "P"), ("S",), ("F1",), ("F2",), ("G",), ("R",), ("I",))


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one system did in one round. `figures`: numbers and texts by name, as in `rows`."""

    round: int
    system: str
    figures: dict[str, float | str]


class Rounds:
    """The brokers of a run, and its measurements one after another."""

    def __init__(self, folder: Path, systems: Sequence[str]) -> None:
        self._folder, self._systems = folder, systems
        needs = {need for name in systems for need in SYSTEMS[name].needs}
        self._kafka = EmbeddedKafka(folder / "kafka", f"127.0.0.1:{free_port()}")
        self._redis = RedisServer(folder / "redis")
        self._brokers: dict[str, Service] = {
            n: s for n, s in (("kafka", self._kafka), ("redis", self._redis)) if n in needs
        }
        (folder / "redis").mkdir(parents=True)

    def run(self, rows: Sequence[str], rounds: int) -> Iterator[Measurement]:
        """Every measurement as it ends."""
        for broker in self._brokers.values():
            broker.start()
        try:
            for number in range(1, rounds + 1):
                for group in GROUPS:
                    for name in self._systems:
                        wanted = [row for row in group if row in rows and SYSTEMS[name].can(row)]
                        if wanted:
                            yield Measurement(number, name, self._measure(number, name, wanted))
        finally:
            for broker in self._brokers.values():
                broker.kill()

    def _measure(self, number: int, name: str, rows: Sequence[str]) -> dict[str, float | str]:
        entry, label = SYSTEMS[name], f"{name}-{number}-{''.join(rows)}"
        bench = Bench(
            redis=self._redis.url,
            kafka=self._kafka.bootstrap,
            namespace=label,
            variant=entry.variant,
            folder=self._folder / label,
            brokers={n: self._brokers[n].pid for n in entry.needs},
        )
        bench.folder.mkdir()
        python = sys.executable if entry.ours else str(peers_python())
        command = [python, "-m", "benchmarks.peers.measure", name, *rows]
        try:
            done = run_tied(command, timeout_s=LIMIT_S + _STOP_S, env=bench.environ())
        except subprocess.TimeoutExpired:
            return {"error": f"did not stop in {LIMIT_S + _STOP_S:.0f} s"}
        found = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
        if not found or done.returncode:
            (bench.folder / "error.log").write_text(done.stdout + done.stderr)
            return {"error": last_line(bench.folder / "error.log")}
        shutil.rmtree(bench.folder, ignore_errors=True)
        figures: dict[str, float | str] = json.loads(found[-1])
        return figures


def append(file: Path, measured: Measurement) -> None:
    """Adds a measurement to a file of JSON lines, with the time."""
    line = {"at": time.time(), "round": measured.round, "system": measured.system, "figures": measured.figures}
    with file.open("a") as f:
        f.write(json.dumps(line) + "\n")


def read(file: Path) -> list[Measurement]:
    """The measurements of such a file."""
    lines = map(json.loads, file.read_text().splitlines())
    return [Measurement(line["round"], line["system"], line["figures"]) for line in lines]
