"""The random schedule: a workload, faults drawn with a seed, a wait until all tasks have ended, the conservation check.

`headrace chaos` runs it against a running `up`, `tests/faults` against a cluster of its own. The same seed draws the
same faults in the same order; the tasks that they hit depend on what runs at that moment.
"""

import itertools
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaException

from headrace.errors import Retryable
from headrace.kafka.sender import Sender

from .conservation import InjectedFault, Verdict, judge
from .evidence import Evidence, EvidenceReader, file_sha256
from .faults import FAULTS, draw
from .installation import Installation
from .listener import Listener
from .recovery import format_times, recoveries
from .workloads import PlannedTask, Submitted, submit_http, submit_native

QUIET_S = 180.0  # longest wait for the next task to end: a lease, replays, a restart of Kafka
_SLICE = 200
_REPORT_S = 30.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Run:
    """Everything about one run, for its report. `seed` repeats its faults."""

    seed: int
    submitted: Submitted = field(default_factory=Submitted)
    faults: list[InjectedFault] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)
    verdict: Verdict = field(default_factory=Verdict)

    def report(self) -> str:
        """The faults by kind, the recovery times and the verdict, as text."""
        counts = Counter(f.fault for f in self.faults)
        lines = [f"{len(self.faults)} faults: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))]
        lines += ["recovery:", format_times(recoveries(self.evidence, self.faults)), str(self.verdict)]
        return "\n".join(lines)


def run_schedule(
    installation: Installation,
    planned: Sequence[PlannedTask],
    seed: int,
    minutes: float,
    say: Say = print,
    only: Sequence[str] = (),
) -> Run:
    """Submits `planned` evenly over `minutes`, half over HTTP and half to Kafka, while it injects faults.

    Refused tasks are submitted again until all have been acknowledged. `only`: names of faults to draw from.
    """
    run, reader = Run(seed), EvidenceReader(installation.kafka)
    listener = Listener(*installation.urls).start()
    over = threading.Event()
    feeder = threading.Thread(
        target=_submit_planned, args=(installation, planned, minutes * 60, run.submitted, over), name="feeder"
    )
    feeder.start()
    try:
        _inject_faults(installation, run, reader, minutes * 60, say, only)
        feeder.join(QUIET_S)
    finally:
        over.set()
        feeder.join()
    say(f"no more faults: {len(run.submitted.ids)} tasks are acknowledged; waiting until all have ended")
    run.evidence = wait_quiet(reader, run.submitted.ids, say=say)
    listener.wait_for(run.submitted.ids, 20)
    listener.close()
    run.verdict = check_conservation(
        installation, run.submitted, run.evidence, run.faults, dict(listener.terminal_events)
    )
    return run


def _inject_faults(
    installation: Installation, run: Run, reader: EvidenceReader, seconds: float, say: Say, only: Sequence[str]
) -> None:
    """Injects one fault after another until the time is over; prints each fault, and regularly the number of tasks."""
    rng = random.Random(run.seed)
    begun = reported_at = time.monotonic()
    while (left_s := begun + seconds - time.monotonic()) > 0:
        time.sleep(min(rng.uniform(1, 5), left_s))
        name = rng.choice(list(only)) if only else draw(rng)
        fault = FAULTS[name][0](installation, rng)
        run.faults.append(fault)
        clock = time.strftime("%M:%S", time.gmtime(time.monotonic() - begun))
        say(f"{clock} {name:20} {fault.node:16} {(fault.ended_ms - fault.begun_ms) / 1000:5.1f} s")
        if time.monotonic() - reported_at > _REPORT_S:
            reported_at = time.monotonic()
            try:
                reader.read()
            except (Retryable, KafkaException):
                continue  # Kafka is away: report next time
            ids = run.submitted.ids.copy()
            say(f"{clock} {len(ids)} tasks are acknowledged, {len(ids) - _count_open(reader.evidence, ids)} have ended")


def wait_quiet(
    reader: EvidenceReader, ids: set[str], timeout_s: float = QUIET_S, say: Say = lambda _line: None
) -> Evidence:
    """Reads the log until every id is received and ended and no claim is open, or none has ended for `timeout_s`."""
    least, deadline, reported_at = len(ids) + 1, time.monotonic() + timeout_s, time.monotonic()
    while True:
        try:
            evidence = reader.read()
        except (Retryable, KafkaException):
            evidence = reader.evidence
        left = _count_open(evidence, ids)
        if left < least:
            least, deadline = left, time.monotonic() + timeout_s
        if (not left and not evidence.claims) or time.monotonic() > deadline:
            return evidence
        if time.monotonic() - reported_at > _REPORT_S:
            reported_at = time.monotonic()
            say(f"waiting: {left} tasks have not ended, {len(evidence.claims)} claims are open")
        time.sleep(0.5)


def _count_open(evidence: Evidence, ids: set[str]) -> int:
    """How many of these have not ended or not been received: a lost node's receiver is replaced within 10 s."""
    histories = [evidence.histories.get(i) for i in ids]
    return sum(h is None or not h.terminal or not h.received for h in histories)


def check_conservation(
    installation: Installation,
    submitted: Submitted,
    evidence: Evidence,
    faults: Sequence[InjectedFault],
    heard: dict[str, int] | None = None,
) -> Verdict:
    """Judges the evidence with this installation's lease and results root; `heard` as in `judge`."""
    root = installation.settings.results_root
    lease_ms = int(installation.settings.lease_s * 1000) + 4000
    return judge(
        submitted.ids,
        evidence,
        lambda e: file_sha256(root, e),
        faults,
        frozenset(submitted.suicidal),
        heard,
        lease_ms,
        frozenset(submitted.poison),
    )


def _submit_planned(
    installation: Installation, planned: Sequence[PlannedTask], seconds: float, into: Submitted, over: threading.Event
) -> None:
    """Submits slices in turn over HTTP and to Kafka, at an even pace, until all tasks are acknowledged."""
    sender = Sender(installation.kafka)
    begun, left, turn = time.monotonic(), deque(planned), 0
    gateways = itertools.cycle(installation.urls)
    try:
        while left and not over.is_set():
            piece = [left.popleft() for _ in range(min(_SLICE, len(left)))]
            refused = submit_http(next(gateways), piece, into) if turn % 2 else submit_native(sender, piece, into)
            turn += 1
            left.extend(refused)
            due = begun + seconds * (1 - len(left) / len(planned))
            over.wait(max(1.0 if refused else 0.0, due - time.monotonic()))
    finally:
        sender.close(60)
