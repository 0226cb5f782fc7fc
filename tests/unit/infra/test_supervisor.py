"""A part that dies is restarted, one with a wrong setting is given up, and all are stopped in order."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.local import supervisor as module
from infra.local.supervisor import Supervisor, how_it_ended
from tests.rigs.programs import STUBBORN, Program


class Lines:
    """The supervisor's lines; `wait` waits for one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._new = threading.Condition()

    def __call__(self, text: str) -> None:
        with self._new:
            self.lines.append(text)
            self._new.notify_all()

    def wait(self, fits: Callable[[str], bool]) -> str:
        with self._new:
            assert self._new.wait_for(lambda: any(map(fits, self.lines)), 20), self.lines
            return next(filter(fits, self.lines))


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def supervisor(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.05)
    made = Supervisor(lines, lambda pids: None)
    yield made
    made.stop([("", 5)], threading.Event())


def test_a_part_that_was_killed_is_started_again(supervisor: Supervisor, lines: Lines, tmp_path: Path) -> None:
    program = Program(tmp_path)
    watch = supervisor.watch(program, "127.0.0.1:1")
    assert watch.settled.wait(20)
    first = program.pid
    program.kill()
    lines.wait(lambda line: line.startswith("program was killed by SIGKILL; starting it again in"))
    lines.wait(lambda _: sum(line.startswith("program ready on 127.0.0.1:1 in") for line in lines.lines) == 2)
    assert supervisor.pids()["program"] != first


def test_changes_are_reported_one_at_a_time(lines: Lines, tmp_path: Path) -> None:
    telling, overlapped = threading.Lock(), threading.Event()

    def on_change(_: dict[str, int]) -> None:
        if not telling.acquire(blocking=False):
            overlapped.set()
            return
        overlapped.wait(0.5)  # as long as a second one might come
        telling.release()

    made = Supervisor(lines, on_change)
    watches = [made.watch(Program(tmp_path, name=name)) for name in ("a", "b", "c")]
    assert all(w.settled.wait(20) for w in watches)
    made.stop([("", 5)], threading.Event())
    assert not overlapped.is_set(), "two at once would write run.json over each other"


def test_a_part_that_keeps_dying_is_reported_with_its_log_and_last_line(
    supervisor: Supervisor, lines: Lines, tmp_path: Path
) -> None:
    supervisor.watch(Program(tmp_path, "raise SystemExit('no tide')", mark="never"))
    line = lines.wait(lambda line: "3 times now" in line)
    assert f"{tmp_path}/program.log ends with: no tide." in line


def test_a_wrong_setting_is_not_tried_again(supervisor: Supervisor, tmp_path: Path) -> None:
    code = "import sys; print('headrace: HEADRACE_X is wrong: give y'); sys.exit(2)"
    program = Program(tmp_path, code, mark="never")
    watch = supervisor.watch(program)
    assert watch.settled.wait(20)
    assert watch.failure == "HEADRACE_X is wrong: give y"
    watch.join(5)
    assert program.log.read_text().count("headrace") == 1


def test_stages_are_stopped_one_after_another_and_the_stubborn_are_killed(lines: Lines, tmp_path: Path) -> None:
    made = Supervisor(lines, lambda pids: None)
    programs = [Program(tmp_path, name=name) for name in ("worker-1", "worker-2", "kafka")]
    stubborn = Program(tmp_path, STUBBORN, name="gateway", mark="on")
    for watch in [made.watch(p) for p in (*programs, stubborn)]:
        assert watch.settled.wait(20)
    assert set(made.pids()) == {"worker-1", "worker-2", "kafka", "gateway"}
    assert not made.stop([("worker-", 5), ("gateway", 0.2), ("kafka", 5)], threading.Event())
    told = [line for line in lines.lines if line.startswith(("stopping", "killed"))]
    assert told == [
        "stopping worker-1, worker-2 (up to 5 s)",
        "stopping gateway (up to 0 s)",
        "killed gateway",
        "stopping kafka (up to 5 s)",
    ]
    assert made.pids() == {}


def test_a_second_request_to_stop_kills_at_once(lines: Lines, tmp_path: Path) -> None:
    made, forced = Supervisor(lines, lambda pids: None), threading.Event()
    stubborn = Program(tmp_path, STUBBORN, mark="on")
    assert made.watch(stubborn).settled.wait(20)
    forced.set()
    assert not made.stop([("program", 600)], forced)
    assert not stubborn.alive


@pytest.mark.parametrize(
    ("code", "words"),
    [(None, "ended"), (0, "ended with exit code 0"), (-9, "was killed by SIGKILL"), (-64, "was killed by SIGRTMAX")],
)
def test_exit_codes_in_words(code: int | None, words: str) -> None:
    assert how_it_ended(code) == words
