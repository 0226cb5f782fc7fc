"""Worker nodes as processes against a real broker: from a submission in Kafka to its outcome, and how nodes end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.child.process_tree import processes
from headrace.client import tls_context
from headrace.contract.cluster import Heartbeat
from headrace.contract.exact_json import encode_json, parse_json
from headrace.contract.journal import Claim, Tombstone, decode_journal
from headrace.contract.lifecycle import Event
from headrace.contract.outcome import Outcome
from headrace.contract.progress import Progress
from headrace.contract.records import Outgoing
from headrace.contract.states import Cause
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from headrace.storage.attempt_log import keep_log, log_file
from infra.local.process import free_port
from tests.rigs.gateway import gateway
from tests.rigs.http import get
from tests.rigs.pool import Kernel, alive
from tests.rigs.reading import read_until

HARD = str(Path(__file__).parents[3] / "rigs" / "hard_tasks.py")
DIRTY, PARALLEL = (str(Path(__file__).parents[3] / "rigs" / name) for name in ("dirty_tasks.py", "parallel_tasks.py"))
ODD = str(Path(__file__).parents[3] / "rigs" / "odd_values.py")
ROOT = Path(__file__).parents[4]


@dataclass
class NodeProcess:
    settings: Settings
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://{self.settings.stats_http}"

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return get(f"{self.url}/readyz", timeout=2).status_code == 200
            except httpx.TransportError:
                return False

        until(ready, timeout_s)

    def stats(self) -> Any:
        return get(f"{self.url}/stats.json", timeout=5).json()

    def reasons(self) -> list[str]:
        return list(get(f"{self.url}/readyz", timeout=5).json()["reasons"])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@dataclass
class Nodes:
    """Starts nodes, and kills those that are left."""

    settings: Settings
    folder: Path
    started: list[NodeProcess] = field(default_factory=list)

    def start(self, *command: str, **changes: object) -> NodeProcess:
        """`command` replaces the command of the role; `changes` replace settings."""
        base = replace(
            self.settings, tasks=HARD, task_user="same", slots=2, stats_http=f"127.0.0.1:{free_port()}", drain_s=20.0
        )
        settings = replace(base, **changes)  # type: ignore[arg-type]
        log = self.folder / f"node-{len(self.started)}.log"
        environ = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")} | settings.environ()
        with log.open("wb") as out:
            arguments = [sys.executable, *(command or ("-m", "headrace.cli.main", "worker"))]
            process = subprocess.Popen(arguments, cwd=ROOT, env=environ, stdout=out, stderr=out)
        self.started.append(NodeProcess(settings, process, log))
        return self.started[-1]


@pytest.fixture
def nodes(kafka_settings: Settings, topics: str, tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(kafka_settings, tmp_path)
    yield made
    for node in made.started:
        node.process.kill()
        node.process.wait()


@pytest.fixture
def kafka(kafka_settings: Settings, topics: str) -> Kafka:
    return Kafka(kafka_settings, "node-test")


@pytest.fixture
def submit(kafka: Kafka) -> Iterator[Callable[..., str]]:
    sender = Sender(kafka)

    def send(name: str, **payload: object) -> str:
        task_id = str(uuid.uuid4())
        value = encode_json({"name": name, "payload": payload, "directory": "demo"})
        sender.send(Outgoing("tasks.normal", task_id.encode(), value)).result(60)
        return task_id

    yield send
    sender.close()


def until(met: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        threading.Event().wait(0.02)


def outcomes(kafka: Kafka, count: int) -> list[Outcome]:
    return [Outcome.decode(r) for r in read_until(kafka, "results", count)]


def open_claims(kafka: Kafka) -> int:
    """Claims without a tombstone."""
    found: dict[str, Claim | Tombstone] = {}
    for record in read_until(kafka, "tasks.running", 1):
        found[(record.key or b"").decode()] = decode_journal(record)
    return sum(isinstance(last, Claim) for last in found.values())


def test_a_task_in_kafka_becomes_an_outcome_and_the_node_ends_in_order(
    nodes: Nodes, kafka: Kafka, submit: Callable[..., str]
) -> None:
    nodes.settings.results_root.mkdir(parents=True)
    keep_log(nodes.settings.results_root, former := str(uuid.uuid4()), 1, b"printed")
    os.utime(old := log_file(nodes.settings.results_root, former, 1), (time.time() - 2 * 86_400,) * 2)
    node = nodes.start(log_days=1)
    done, failing = submit("echo", value="hello"), submit("prints", lines=3)
    big, reporting = submit("many_bytes", size=1_200_000), submit("reports")
    found = {o.id: o for o in outcomes(kafka, 6)}
    assert found[done].value == b"hello"
    assert (found[done].outcome, found[done].suffix, found[done].node) == ("completed", ".txt", node.settings.node_name)
    assert sorted(o.chunk for o in outcomes(kafka, 6) if o.id == big) == [0, 1, 2]
    assert {Event.decode(r).id for r in read_until(kafka, "lifecycle.received", 4)} == {done, failing, big, reporting}
    started = [Event.decode(r) for r in read_until(kafka, "lifecycle.started", 4)]
    assert sorted((e.id, e.attempt) for e in started) == sorted((i, 1) for i in (done, failing, big, reporting))
    reported = [Progress.decode(r) for r in read_until(kafka, "progress", 2)]
    assert (reported[0].fraction, reported[-1].fraction) == (0.0, 1.0)
    assert b"the last words" in log_file(node.settings.results_root, failing, 1).read_bytes()
    until(lambda: not old.exists())
    node.wait_ready()
    for path in ("/healthz", "/readyz", "/metrics", "/stats.json", "/"):
        head = httpx.head(node.url + path, verify=tls_context())
        assert (head.status_code, head.content) == (200, b""), path
    until(lambda: (node.stats()["waiting"]["normal"], node.stats()["waiting"]["high"]) == (0, 0), 6)
    assert node.stop() == 0, node.log.read_text()
    assert open_claims(kafka) == 0
    last = [Heartbeat.decode(r) for r in read_until(kafka, "nodes", 2) if r.value][-1]
    assert (last.state, last.node) == ("dead", node.settings.node_name)
    assert (last.drained, last.pid, last.slots, last.kinds) == (True, node.process.pid, 2, ())
    assert "ERROR" not in node.log.read_text()


def test_odd_numbers_and_errors_keep_their_value_from_kafka_to_the_outcome(
    nodes: Nodes, kafka: Kafka, submit: Callable[..., str]
) -> None:
    nodes.start(tasks=ODD)
    big, nan, words = submit("exact", n=2**70), submit("returns", what="nan"), submit("fails", what="surrogate")
    deep = submit("exact", n=json.loads("[" * 200 + "]" * 200))
    found = {o.id: o for o in outcomes(kafka, 4)}
    assert parse_json(found[big].value)["n"] == 2**70
    assert (found[nan].reason, [f.attempt for f in found[nan].ledger]) == ("failed", [1])
    assert "at /a/1 it holds nan" in found[nan].error
    assert (found[words].reason, [f.cause for f in found[words].ledger]) == ("failed", [Cause.ERROR] * 3)
    assert found[words].error.endswith("ValueError: caf\\udce9")
    assert (found[deep].reason, found[deep].ledger) == ("invalid", ())
    assert "/payload/n: " in found[deep].error


def test_a_node_that_cannot_begin_attempts_says_so_and_ends_no_task(
    nodes: Nodes, kafka: Kafka, submit: Callable[..., str]
) -> None:
    node = nodes.start()
    node.wait_ready()
    scratch = node.settings.data / "scratch" / node.settings.node_name
    away = scratch.rename(scratch.with_suffix(".away"))
    ids = {submit("echo", value="on") for _ in range(5)}
    until(lambda: any(r.startswith("pool: no attempt can begin") for r in node.reasons()))
    until(lambda: node.stats()["slots"]["free"] == 0)
    away.rename(scratch)
    assert {o.id: o.value for o in outcomes(kafka, 5)} == dict.fromkeys(ids, b"on")
    until(lambda: not node.reasons())


def test_a_node_says_which_claim_none_of_its_parts_knows_and_a_restart_mends_it(
    nodes: Nodes, kafka: Kafka, submit: Callable[..., str]
) -> None:
    node = nodes.start("-m", "tests.rigs.lossy_node")
    node.wait_ready()
    task_id = submit("echo", value="on")
    said = f"conservation: claims are open whose tasks no part of the node knows (1, such as {task_id}:"
    until(lambda: any(reason.startswith(said) for reason in node.reasons()))
    assert 'headrace_worker_unaccounted_total{what="claim"} 1.0' in get(f"{node.url}/metrics", timeout=5).text
    assert f"A claim is not accounted for, for 2 s: {task_id}:" in node.log.read_text()
    node.process.kill()
    node.process.wait()
    nodes.start()
    [outcome] = outcomes(kafka, 1)
    assert (outcome.id, outcome.value, outcome.attempt) == (task_id, b"on", 2)


def test_a_node_says_what_waits_for_another_node_and_works_on(
    nodes: Nodes, kafka: Kafka, submit: Callable[..., str]
) -> None:
    """The other node has no slot at all, so it never has room."""
    other, sender = Heartbeat("other", "other", host="h", pid=1, slots=0, started_ms=1, kinds=("rare",)), Sender(kafka)

    def said(what: Callable[[], bool]) -> Callable[[], bool]:
        """Keeps the other node alive meanwhile."""
        return lambda: sender.send(other.encode()).result(60) is not None and what()

    node = nodes.start(aside_s=0.2)
    sender.send(other.encode()).result(60)
    node.wait_ready()
    ids = [submit("rare") for _ in range(3)]
    until(said(lambda: [w["count"] for w in node.stats()["waits"]] == [3]))
    [wait] = node.stats()["waits"]
    assert (wait["why"], wait["name"]) == ("aside", "rare")
    assert wait["task"] in ids
    ready = get(f"{node.url}/readyz", timeout=5)
    assert [n for n in ready.json()["notes"] if n.startswith("3 tasks wait aside, of kind rare")]
    assert ready.status_code == 200
    metrics = get(f"{node.url}/metrics", timeout=5).text
    assert 'headrace_worker_standing_still{name="rare",why="aside"} 3.0' in metrics
    assert 'headrace_worker_standing_still_seconds{name="rare",why="aside"}' in metrics

    def heartbeats() -> list[Heartbeat]:
        return [Heartbeat.decode(r) for r in read_until(kafka, "nodes", 2) if r.value and r.key != b"other"]

    until(said(lambda: any(wait.count == 3 for beat in heartbeats() for wait in beat.waits)))
    submit("echo", value="on")
    [outcome] = outcomes(kafka, 1)
    assert outcome.value == b"on"
    sender.close()


def test_what_one_task_leaves_reaches_no_other_and_files_and_worker_processes_work(
    nodes: Nodes, kafka: Kafka, submit: Callable[..., str]
) -> None:
    node = nodes.start(tasks=f"{DIRTY},{PARALLEL}", slots=1)
    messes = ["closes_stdout", "sets_an_alarm", "leaves_a_thread_that_exits", "limits_files", "forgets_modules"]
    dirty = [submit("makes_a_mess", mess=mess) for mess in messes]
    tables = [submit("writes_a_table", row=str(n)) for n in range(2)]
    canary = submit("canary")
    parallel = [submit("executor", method=method) for method in ("", "spawn", "forkserver", "forkserver")]
    found = {o.id: o for o in outcomes(kafka, 12)}
    assert {found[task_id].outcome for task_id in found} == {"completed"}
    assert {found[task_id].value for task_id in dirty} == {b"done"}
    assert [(found[t].value, found[t].content_type, found[t].suffix) for t in tables] == [
        (b"row\n0\n", "text/csv", ".csv"),
        (b"row\n1\n", "text/csv", ".csv"),
    ]
    assert {found[task_id].value for task_id in parallel} == {b"[0,1,4,9]"}
    state = parse_json(found[canary].value or b"")
    assert (state["files"], state["directory_is_scratch"], state["threads"]) == ([], True, 1)
    assert not (ROOT / "out.csv").exists()
    assert node.stop() == 0


def test_an_attempt_that_outlasts_the_drain_is_sent_again_without_charge(
    nodes: Nodes, kafka: Kafka, submit: Callable[..., str], tmp_path: Path
) -> None:
    node = nodes.start(drain_s=2.0)
    long, short = submit("sleeps", seconds=60.0, flag=str(tmp_path / "a")), submit("sleeps", seconds=1.5)
    until((tmp_path / "a").exists, 30)
    until(lambda: node.stats()["slots"] == {"total": 2, "used": 2, "free": 0}, 10)
    node.process.send_signal(signal.SIGTERM)
    until(lambda: node.stats()["state"] == "draining", 2)
    late = submit("echo", value="not here")
    assert get(f"{node.url}/").status_code == 200
    assert node.process.wait(15) == 0, node.log.read_text()
    assert {o.id for o in outcomes(kafka, 1)} == {short}
    (replay,) = [Task.from_record(r) for r in read_until(kafka, "tasks.high", 1)]
    assert (replay.id, replay.attempt, [f.cause for f in replay.ledger]) == (long, 2, [Cause.DRAIN])
    assert open_claims(kafka) == 0
    nodes.start(tasks=HARD)
    until(lambda: late in {o.id for o in outcomes(kafka, 1)}, 20)


def test_a_crashing_task_is_tried_again_and_then_fails(nodes: Nodes, kafka: Kafka, submit: Callable[..., str]) -> None:
    nodes.start()
    crashing, fine = submit("dies_of", number=9), submit("echo", value="fine")
    found = {o.id: o for o in outcomes(kafka, 2)}
    assert found[fine].outcome == "completed"
    assert (found[crashing].outcome, found[crashing].reason) == ("failed", "crashed")
    assert [(f.attempt, f.cause, f.detail) for f in found[crashing].ledger] == [
        (n, Cause.PROCESS_DEATH, "killed by SIGKILL") for n in (1, 2, 3)
    ]


def test_nothing_of_an_attempt_outlives_it_although_its_forkserver_was_killed(
    nodes: Nodes, submit: Callable[..., str], tmp_path: Path
) -> None:
    nodes.start()
    file = tmp_path / "pids"
    submit("starts_others", pids=str(file), then="wait")
    until(file.exists)
    runner, *others = map(int, file.read_text().split())
    file.unlink()
    seen = processes()
    os.kill(seen[seen[runner].parent].parent, signal.SIGKILL)
    until(file.exists)  # the next attempt: nothing of this one may run beside it
    assert not [pid for pid in (runner, *others) if alive(pid)]


_OUR_KERNEL = """
import sys
from pathlib import Path
from agents.execution import oom
from headrace.cli.main import main
oom._EVENTS = Path(sys.argv[1])
sys.exit(main(["worker"]))
"""


def test_while_an_out_of_memory_victim_waits_to_run_alone_its_node_claims_nothing(
    nodes: Nodes, kafka: Kafka, submit: Callable[..., str], tmp_path: Path
) -> None:
    kernel, stop, victim = Kernel(tmp_path / "memory.events"), tmp_path / "stop", tmp_path / "victim"
    node = nodes.start("-c", _OUR_KERNEL, str(tmp_path / "memory.events"), slots=3)
    waiting, killed = submit("waits", until=str(stop)), submit("sleeps", seconds=0.1, flag=str(victim))
    until(lambda: victim.exists() and len(node.stats()["running"]) == 2)
    kernel.kills(int(victim.read_text()))
    until(lambda: "it runs again, alone" in node.log.read_text())
    others = {submit("echo", value="on") for _ in range(4)}
    until(lambda: node.stats()["waiting"]["normal"] == 4)
    time.sleep(1)  # the third slot would take one of them in no time, and keep it from other nodes
    assert open_claims(kafka) == 2
    stop.touch()
    assert {o.id for o in outcomes(kafka, 6)} == {waiting, killed, *others}


def test_a_node_that_is_stopped_while_its_kinds_are_imported_ends_at_once(nodes: Nodes, tmp_path: Path) -> None:
    kinds, flag = tmp_path / "slow.py", tmp_path / "importing"
    kinds.write_text(f"import pathlib, time\npathlib.Path({str(flag)!r}).touch()\ntime.sleep(50)\n")
    node = nodes.start(tasks=str(kinds))
    until(flag.exists)
    assert node.stop() == 0, node.log.read_text()


def test_a_node_killed_and_started_again_at_once_works_at_once(
    nodes: Nodes, kafka: Kafka, submit: Callable[..., str]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    first = nodes.start(stats_http=address)
    before = submit("echo", value="before")
    outcomes(kafka, 1)
    first.wait_ready()
    killed = time.monotonic()
    first.process.kill()
    first.process.wait()
    again = nodes.start(stats_http=address)
    after = submit("echo", value="after")
    assert {o.id for o in outcomes(kafka, 2)} == {before, after}
    assert {Event.decode(r).id for r in read_until(kafka, "lifecycle.received", 2)} == {before, after}
    assert time.monotonic() - killed < 9.0  # the dead receiver's session would have lasted 10 s
    again.wait_ready()
    assert again.stop() == 0


def test_the_cluster_shows_the_boot_that_runs_and_then_that_it_was_drained(
    nodes: Nodes, kafka_settings: Settings
) -> None:
    address = f"127.0.0.1:{free_port()}"
    first = nodes.start(stats_http=address)
    first.wait_ready()
    first.process.kill()
    first.process.wait()
    again = nodes.start(stats_http=address)
    again.wait_ready()
    # This one reads what was said of both boots; it must not take the death notice for the newest.
    with gateway(kafka_settings) as gw:

        def shown() -> list[tuple[str, int]]:
            return [(n["state"], n["pid"]) for n in gw.http.get("/nodes").json()["items"]]

        until(lambda: shown() == [("alive", again.process.pid)], 10)
        for _ in range(20):
            assert shown() == [("alive", again.process.pid)]
            time.sleep(0.05)
        assert again.stop() == 0
        until(lambda: shown() == [("drained", again.process.pid)], 10)
    with gateway(kafka_settings, "later") as gw:
        until(lambda: shown() == [("drained", again.process.pid)], 10)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": "no/such/file.py"}, "HEADRACE_TASKS: no file no/such/file.py"),
        ({"stats_http": "0.0.0.0:6066"}, "0.0.0.0:6066 is reachable from the network"),
    ],
)
def test_a_usage_error_is_one_sentence_and_exit_code_2(nodes: Nodes, changes: dict[str, str], said: str) -> None:
    node = nodes.start(**changes)
    assert node.process.wait(30) == 2
    lines = [line for line in node.log.read_text().splitlines() if said in line]
    assert len(lines) == 1, node.log.read_text()
    assert "Traceback" not in node.log.read_text()


_REAPER_THAT_FAILS = """
import sys
from agents.recovery.reaper import Reaper
from headrace.cli.main import main
Reaper._judge_claims = None
sys.exit(main(["worker"]))
"""


def test_a_node_whose_reaper_fails_exits_with_an_error(nodes: Nodes) -> None:
    node = nodes.start("-c", _REAPER_THAT_FAILS)
    assert node.process.wait(60) == 1
    assert "The reaper has failed" in node.log.read_text()
