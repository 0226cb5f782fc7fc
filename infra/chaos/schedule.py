"""The random schedule: a workload, faults drawn by a seed, then quiet, then the conservation check.

`headrace chaos` runs it against a running `up`; `tests/faults` runs the same against a cluster of its own. The same
seed draws the same faults in the same order; what each of them hits still depends on what runs at that moment.
"""

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaException

from headrace.errors import Retryable
from headrace.kafka.client import Sender
from infra.chaos.conservation import Done, Verdict, judge
from infra.chaos.evidence import Evidence, EvidenceReader, file_sha256
from infra.chaos.faults import FAULTS, draw
from infra.chaos.installation import Installation
from infra.chaos.listener import Listener
from infra.chaos.recovery import recoveries, told
from infra.chaos.workloads import Planned, Submitted, submit_http, submit_native

QUIET_S = 180.0  # without the end of any task: a lease, the replays, a Kafka that comes back
_SLICE = 200
_TELL_S = 30.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Run:
    """What happened: for the report, and to run it again."""

    seed: int
    submitted: Submitted = field(default_factory=Submitted)
    faults: list[Done] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)
    verdict: Verdict = field(default_factory=Verdict)

    def report(self) -> str:
        """Counts by fault, recovery times and the verdict, in words."""
        counts = Counter(f.what for f in self.faults)
        lines = [f"{len(self.faults)} faults: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))]
        lines += ["recovery:", told(recoveries(self.evidence, self.faults)), str(self.verdict)]
        return "\n".join(lines)


def run_schedule(
    at: Installation,
    planned: Sequence[Planned],
    seed: int,
    minutes: float,
    say: Say = print,
    only: Sequence[str] = (),
) -> Run:
    """Submits `planned` spread over the time, half over HTTP and half straight to Kafka, while faults are done.

    What is refused meanwhile is submitted again, so that in the end all of it has been acknowledged.
    """
    run, reader = Run(seed), EvidenceReader(at.kafka)
    listener = Listener(at.url).start()
    over = threading.Event()
    feeder = threading.Thread(target=_feed, args=(at, planned, minutes * 60, run.submitted, over), name="feeder")
    feeder.start()
    try:
        _harm(at, run, reader, minutes * 60, say, only)
        feeder.join(QUIET_S)
    finally:
        over.set()
        feeder.join()
    say(f"quiet: {len(run.submitted.ids)} tasks acknowledged, waiting for every one to end")
    run.evidence = wait_quiet(reader, run.submitted.ids, say=say)
    listener.wait_for(run.submitted.ids, 20)
    listener.close()
    run.verdict = check(at, run.submitted, run.evidence, run.faults, dict(listener.told))
    return run


def _harm(at: Installation, run: Run, reader: EvidenceReader, seconds: float, say: Say, only: Sequence[str]) -> None:
    """One fault after another until the time is over, with a line for each and one for the tasks now and then."""
    rng = random.Random(run.seed)
    begun = told_at = time.monotonic()
    while (left_s := begun + seconds - time.monotonic()) > 0:
        time.sleep(min(rng.uniform(1, 5), left_s))
        name = rng.choice(list(only)) if only else draw(rng)
        done = FAULTS[name][0](at, rng)
        run.faults.append(done)
        clock = time.strftime("%M:%S", time.gmtime(time.monotonic() - begun))
        say(f"{clock} {name:20} {done.node:16} {(done.ended_ms - done.begun_ms) / 1000:5.1f} s")
        if time.monotonic() - told_at > _TELL_S:
            told_at = time.monotonic()
            try:
                reader.read()
            except (Retryable, KafkaException):
                continue  # next time
            ids = run.submitted.ids.copy()
            say(f"{clock} {len(ids)} tasks acknowledged, {len(ids) - _open(reader.evidence, ids)} have ended")


def wait_quiet(
    reader: EvidenceReader, ids: set[str], timeout_s: float = QUIET_S, say: Say = lambda _line: None
) -> Evidence:
    """Reads the log on until every id is received and ended and no claim is left, or nothing has come for so long."""
    least, deadline, told_at = len(ids) + 1, time.monotonic() + timeout_s, time.monotonic()
    while True:
        try:
            evidence = reader.read()
        except (Retryable, KafkaException):
            evidence = reader.evidence
        left = _open(evidence, ids)
        if left < least:
            least, deadline = left, time.monotonic() + timeout_s
        if (not left and not evidence.claims) or time.monotonic() > deadline:
            return evidence
        if time.monotonic() - told_at > _TELL_S:
            told_at = time.monotonic()
            say(f"quiet: {left} tasks have not ended, {len(evidence.claims)} claims")
        time.sleep(0.5)


def _open(evidence: Evidence, ids: set[str]) -> int:
    """How many of these have not ended, or have not been received: a lost node's receiver is replaced within 10 s."""
    stories = [evidence.stories.get(i) for i in ids]
    return sum(story is None or not story.terminal or not story.received for story in stories)


def check(
    at: Installation,
    submitted: Submitted,
    evidence: Evidence,
    faults: Sequence[Done],
    told: dict[str, int] | None = None,
) -> Verdict:
    root = at.settings.results_root
    lease_ms = int(at.settings.lease_s * 1000) + 4000
    return judge(
        submitted.ids,
        evidence,
        lambda e: file_sha256(root, e),
        faults,
        frozenset(submitted.suicidal),
        told,
        lease_ms,
    )


def _feed(at: Installation, planned: Sequence[Planned], seconds: float, into: Submitted, over: threading.Event) -> None:
    """Slices of the workload in turn over HTTP and to Kafka, at an even pace, until all of it has been acknowledged."""
    sender = Sender(at.kafka)
    begun, left, turn = time.monotonic(), deque(planned), 0
    try:
        while left and not over.is_set():
            piece = [left.popleft() for _ in range(min(_SLICE, len(left)))]
            refused = submit_http(at.url, piece, into) if turn % 2 else submit_native(sender, piece, into)
            turn += 1
            left.extend(refused)
            due = begun + seconds * (1 - len(left) / len(planned))
            over.wait(max(1.0 if refused else 0.0, due - time.monotonic()))
    finally:
        sender.close(60)
