"""The storekeeper is killed after each step, its disk is full, its results root is gone: nothing is lost or doubled."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from headrace.contract.outcome import Outcome
from tests.rigs.storekeeper import Rig, completed, failed, installation, wait_for


@pytest.fixture
def rig(broker: str, tmp_path: Path) -> Iterator[Rig]:
    with installation(broker, tmp_path) as rig:
        yield rig


class SmallDisk(Protocol):
    """A results root that can be filled and emptied; `reason` is the system's message when it is full."""

    root: Path
    reason: str

    def fill(self, pid: int) -> None: ...

    def make_room(self, pid: int) -> None: ...


class TmpfsDisk:
    """A filesystem of 1 MiB, filled by a file in it."""

    reason = "results root: No space left on device"

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(self, pid: int) -> None:
        with contextlib.suppress(OSError), (self.root / "ballast").open("wb", buffering=0) as f:
            while True:
                f.write(bytes(4096))

    def make_room(self, pid: int) -> None:
        (self.root / "ballast").unlink()


class LimitedDisk:
    """For where the test may not mount: the kernel's limit on file sizes, set on the running storekeeper."""

    reason = "results root: File too large"

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

    def make_room(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    root = tmp_path / "small"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)]
    if subprocess.run(mount, capture_output=True).returncode:
        yield LimitedDisk(root)
        return
    yield TmpfsDisk(root)
    subprocess.run(["umount", "--lazy", str(root)], check=True)


def test_storekeeper_killed_after_each_step_still_ends_each_task_once(rig: Rig) -> None:
    sent: list[Outcome] = []
    for step in ("file", "event", "index", "commit"):
        outcomes = [completed(b"%d" % n, suffix=".txt") for n in range(20)] + [failed() for _ in range(5)]
        sent += outcomes
        rig.send(*outcomes)
        victim = rig.start("-m", "tests.faults.processes.storekeeper_victim", step)
        assert victim.wait(60) == -signal.SIGKILL, step
    rig.start()
    last = completed()
    rig.send(*sent, last)  # and every outcome once more, as a reaper may send them
    events = rig.events(last.id, *(o.id for o in sent))
    assert len(events) == len({e.id for e in events}) == 101
    for event in events:
        if event.topic == "lifecycle.completed":
            rig.file(event)
    wait_for(lambda: rig.ready().status_code == 200, "ready again")
    assert [p for p in (rig.root / ".headrace").glob("*/*") if p.name != "lock"] == []


def test_a_full_disk_is_waited_for_and_leaves_no_half_file(rig: Rig, small_disk: SmallDisk) -> None:
    rig.settings = replace(rig.settings, results=str(small_disk.root))
    process = rig.start()
    small = completed(b"x" * 1000)
    rig.send(small)
    rig.events(small.id)
    small_disk.fill(process.pid)
    big = completed(b"y" * 450_000)
    rig.send(big)
    wait_for(lambda: small_disk.reason in rig.ready().text, "the reason on /readyz")
    assert rig.ready().status_code == 503
    assert [e.id for e in rig.all_events()] == [small.id]
    assert [p.name for p in (rig.root / "demo").iterdir()] == [f"{small.id}.json"]

    small_disk.make_room(process.pid)
    events = rig.events(small.id, big.id)
    assert [rig.file(e) for e in events if e.id == big.id] == [big.value]
    wait_for(lambda: rig.ready().status_code == 200, "ready by itself")


def test_a_results_root_that_went_away_is_waited_for(rig: Rig) -> None:
    rig.start()
    first = completed()
    rig.send(first)
    rig.events(first.id)
    away = rig.root.with_name("away")
    rig.root.rename(away)
    second = completed()
    rig.send(second)
    wait_for(lambda: "is gone" in rig.ready().text, "the reason on /readyz")
    assert not rig.root.exists()
    rig.root.mkdir()
    wait_for(lambda: "not the results root any more" in rig.ready().text, "an empty directory is no results root")
    assert list(rig.root.iterdir()) == []
    rig.root.rmdir()
    away.rename(rig.root)
    events = rig.events(first.id, second.id)
    assert [rig.file(e) for e in events if e.id == second.id] == [second.value]
    assert len(events) == 2


def test_a_storekeeper_on_another_root_refuses_to_start(rig: Rig, tmp_path: Path) -> None:
    rig.start()
    first = completed()
    rig.send(first)
    rig.events(first.id)
    command = [
        "-m",
        "headrace.cli.main",
        "storekeeper",
        "--results",
        str(tmp_path / "elsewhere"),
        "--data",
        str(tmp_path / "d"),
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")} | rig.settings.environ()
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "another results root" in done.stderr
    assert "Traceback" not in done.stderr
