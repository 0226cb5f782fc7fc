"""The audit goes on: through a damaged file, another cluster's file, records that it cannot use, and its own failures;
and it says so when it does not."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headrace.contract.lifecycle import received_event
from headrace.contract.records import Outgoing, Record, Source
from headrace.contract.task import Task
from headrace.errors import Retryable
from headrace.kafka.client import Kafka
from headrace.settings import Settings
from spark_analytics.audit.auditor import Auditor
from spark_analytics.audit.projection import AuditProjection
from spark_analytics.audit.store import Audit
from spark_analytics.audit.supervisor import AuditSupervisor
from spark_analytics.metrics import Metrics
from tests.rigs.lifecycle import Sends, flat, stories
from tests.rigs.sqlite_files import flip_pages, truncate

SETTLED_S = 0.3
PATIENCE_S = 60.0


class Kept:
    """Keeps audits in the place of the database."""

    def __init__(self) -> None:
        self.audits: list[Audit] = []

    def save(self, audit: Audit) -> None:
        self.audits.append(audit)

    def counts_by_minute(self, first: int, last: int) -> dict[tuple[int, str], int]:
        return {}


@pytest.fixture
def send(kafka_settings: Settings, topics: str) -> Iterator[Sends]:
    found = Sends(kafka_settings)
    yield found
    found.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def auditor(kafka_settings: Settings, topics: str, metrics: Metrics, tmp_path: Path) -> Iterator[Auditor]:
    found = Auditor(Kafka(kafka_settings, "audit"), Kept(), tmp_path, metrics, SETTLED_S)
    yield found
    found.stop()


@pytest.mark.parametrize("damage", [flip_pages, truncate])
def test_a_damaged_file_is_filled_from_the_log_again(
    send: Sends, auditor: Auditor, metrics: Metrics, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    told = stories(300)
    send(flat(told))
    before = auditor.audit()
    damage(tmp_path / "audit.sqlite")
    send(flat(stories(20, seed=1)))
    with pytest.raises(Retryable, match="is made anew from the log"):
        auditor.audit()
    after = auditor.audit()
    assert (before.received, after.received, after.completed + after.dead) == (300, 320, 320)
    assert not after.findings
    assert 'headrace_file_rebuilds_total{file="audit"} 1.0' in metrics.text().decode()


def test_a_locked_file_is_waited_for_in_words_and_kept(
    send: Sends, auditor: Auditor, metrics: Metrics, tmp_path: Path
) -> None:
    send(flat(stories(10)))
    assert auditor.audit().received == 10
    with closing(sqlite3.connect(tmp_path / "audit.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        send(flat(stories(10, seed=1)))
        with pytest.raises(Retryable, match="another process has locked it: end that process"):
            auditor.audit()
        other.execute("ROLLBACK")
    assert auditor.audit().received == 20
    assert 'headrace_file_rebuilds_total{file="audit"} 0.0' in metrics.text().decode()


def test_a_full_disk_is_waited_for_in_words_and_nothing_is_counted_twice(send: Sends, auditor: Auditor) -> None:
    auditor.audit()
    db = auditor._projection._db
    db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
    send(flat(stories(300)))
    with pytest.raises(Retryable, match="the disk is full: make room on it"):
        auditor.audit()
    db.execute("PRAGMA max_page_count = 1000000")
    assert auditor.audit().received == 300


def test_another_clusters_file_is_emptied(send: Sends, auditor: Auditor, tmp_path: Path) -> None:
    told = stories(10)
    send(flat(told))
    auditor.audit()
    auditor._projection.adopt("another cluster")
    assert auditor._projection.totals()["received"] == 0
    assert auditor.audit().received == 10, "and filled from this one's log"


def test_records_that_are_no_events_are_passed_over_and_counted(
    send: Sends, auditor: Auditor, metrics: Metrics
) -> None:
    send([Outgoing(t, b"no id", b"", (("source", b"\xff"),)) for t in ("lifecycle.received", "tasks.dead")])
    send([Outgoing("tasks.running", b"no claim", b"x"), *flat(stories(10))])
    audit = auditor.audit()
    assert (audit.received, audit.completed + audit.dead) == (10, 10)
    text = metrics.text().decode()
    for topic in ("lifecycle.received", "tasks.dead", "tasks.running"):
        assert f'headrace_audit_passed_over_total{{topic="{topic}"}} 1.0' in text


def test_a_record_that_no_rule_foresaw_does_not_end_the_audit(tmp_path: Path) -> None:
    """SQLite takes no whole number of more than 64 bits; a record can have no such time, so it stands for any other."""
    passed_over: list[str] = []
    projection = AuditProjection(tmp_path / "audit.sqlite", passed_over.append)
    records = [
        Record("lifecycle.received", 0, n, timestamp_ms=2**70 if n == 1 else 1, key=key, value=key)
        for n, key in enumerate(f"{n:08x}-0000-4000-8000-000000000000".encode() for n in range(3))
    ]
    projection.add_records(records)
    assert (projection.totals()["received"], projection.next_offsets()) == (2, {("lifecycle.received", 0): 3})
    assert passed_over == ["lifecycle.received"]
    projection.close()


def test_the_log_is_searched_once_for_each_lost_task(send: Sends, auditor: Auditor, metrics: Metrics) -> None:
    """Every audit read the whole history of its partition again, for as long as the task was lost."""
    task = Task(
        "00000007-0000-4000-8000-000000000000", b"{}", attempt=1, source=Source("tasks.normal", 0, 0), submitted_ms=1
    )
    send([*flat(stories(100)), received_event(task, "prime", "demo", "kafka")])
    searched: list[dict[bytes, int]] = []
    search = auditor._log.story

    def counted(ids: dict[bytes, int]) -> object:
        searched.append(ids)
        return search(ids)

    auditor._log.story = counted  # type: ignore[assignment,method-assign]
    for _ in range(6):
        time.sleep(SETTLED_S + 0.05)  # an audit judges settled events only
        audit = auditor.audit()
    assert [f.verdict for f in audit.findings] == ["lost"]
    assert audit.lost == 1
    assert len(searched) == 1


class Script:
    """An auditor that does what it is told; it has no Kafka."""

    def __init__(self, step: Callable[[], None], acts: list[Callable[[], None]]) -> None:
        self._step, self._acts = step, acts
        self.closed = False

    def audit(self) -> None:
        self._step()
        if self._acts:
            self._acts.pop(0)()

    def ask_to_stop(self) -> None:
        pass

    def stop(self) -> None:
        self.closed = True


def fail() -> None:
    raise ValueError("a fault of ours")


def end_thread() -> None:
    raise SystemExit


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # what it is about
def test_an_audit_that_fails_is_started_again() -> None:
    made: list[Script] = []
    done = threading.Event()
    acts = [fail, end_thread, lambda: None, done.set]

    def make(step: Callable[[], None]) -> Script:
        made.append(Script(step, acts))
        return made[-1]

    supervisor = AuditSupervisor(make, 0.01)  # type: ignore[arg-type]
    supervisor.start()
    try:
        assert done.wait(PATIENCE_S)
        assert len(made) == 3
        assert made[0].closed
        assert made[1].closed
    finally:
        supervisor.stop()
    assert made[2].closed


def test_an_audit_that_hangs_or_goes_on_failing_is_said_and_ends_the_process() -> None:
    release, hung = threading.Event(), list[str]()

    def hang() -> None:
        release.wait(PATIENCE_S)

    def make(step: Callable[[], None]) -> Script:
        return Script(step, [hang])

    supervisor = AuditSupervisor(make, 0.01, on_hung=hung.append, silent_s=0.2, hangs_s=0.5)  # type: ignore[arg-type]
    supervisor.start()
    try:
        wait_until(lambda: bool(hung), supervisor.check)
        assert "has made no step for" in hung[0]
        assert "has made no step for" in (supervisor.check() or "")
        release.set()
        wait_until(lambda: supervisor.check() is None, supervisor.check)
    finally:
        release.set()
        supervisor.stop()


def test_an_audit_that_goes_on_failing_is_said_with_its_reason() -> None:
    def away() -> None:
        raise Retryable("the database is away")

    def make(step: Callable[[], None]) -> Script:
        return Script(step, [away] * 100_000)

    supervisor = AuditSupervisor(make, 0.01, silent_s=0.2)  # type: ignore[arg-type]
    supervisor.start()
    try:
        wait_until(lambda: "the database is away" in (supervisor.check() or ""), supervisor.check)
    finally:
        supervisor.stop()


def wait_until(condition: Callable[[], bool], told: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)
