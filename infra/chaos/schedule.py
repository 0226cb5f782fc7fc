"""The random schedule: a workload, faults drawn by a seed, then quiet, then the conservation check.

`headrace chaos` runs it against a running `up`; `tests/faults` runs the same against a cluster of its own. The same
seed draws the same faults in the same order; what each of them hits still depends on what runs at that moment.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace.kafka import Sender
from infra.chaos.conservation import Done, Verdict, judge
from infra.chaos.evidence import Evidence, file_sha256, read_evidence
from infra.chaos.faults import FAULTS, draw
from infra.chaos.installation import Installation
from infra.chaos.listener import Listener
from infra.chaos.workloads import Planned, Submitted, submit_http, submit_native

QUIET_S = 180.0  # after the last fault: a lease, the replays, and what was still queued
_SLICE = 200

Say = Callable[[str], None]


@dataclass(slots=True)
class Run:
    """What happened: for the report, and to run it again."""

    seed: int
    submitted: Submitted = field(default_factory=Submitted)
    faults: list[Done] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)


def run_schedule(
    at: Installation,
    planned: Sequence[Planned],
    seed: int,
    minutes: float,
    say: Say = print,
    only: Sequence[str] = (),
) -> Run:
    """Submits `planned` spread over the time, half over HTTP and half straight to Kafka, while faults are done."""
    rng = random.Random(seed)
    run = Run(seed)
    listener = Listener(at.url).start()
    deadline = time.monotonic() + minutes * 60
    over = threading.Event()
    feeder = threading.Thread(target=_feed, args=(at, planned, minutes * 60, run.submitted, over), name="feeder")
    feeder.start()
    try:
        while time.monotonic() < deadline:
            over.wait(min(rng.uniform(1, 5), max(0.0, deadline - time.monotonic())))
            name = rng.choice(list(only)) if only else draw(rng)
            done = FAULTS[name][0](at, rng)
            run.faults.append(done)
            seconds = (done.ended_ms - done.begun_ms) / 1000
            say(f"{name:20} {done.node:14} {seconds:5.1f} s   {len(run.submitted.ids)} submitted")
    finally:
        feeder.join()
        over.set()
    say("quiet: waiting for every task to end")
    evidence = wait_quiet(at, run.submitted.ids)
    listener.wait_for(run.submitted.ids, 20)
    listener.close()
    run.verdict = check(at, run.submitted, evidence, run.faults, dict(listener.told))
    return run


def wait_quiet(at: Installation, ids: set[str], timeout_s: float = QUIET_S) -> Evidence:
    """Reads the log until every id has ended and no claim is left, or time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        evidence = read_evidence(at.kafka)
        open_ids = sum(not (i in evidence.stories and evidence.stories[i].terminal) for i in ids)
        if (not open_ids and not evidence.claims) or time.monotonic() > deadline:
            return evidence
        time.sleep(1.0)


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
    """Slices of the workload in turn over HTTP and to Kafka, at an even pace."""
    sender = Sender(at.kafka)
    begun = time.monotonic()
    try:
        for number, start in enumerate(range(0, len(planned), _SLICE)):
            piece = planned[start : start + _SLICE]
            if number % 2:
                submit_http(at.url, piece, into)
            else:
                submit_native(sender, piece, into)
            due = begun + seconds * min(1.0, (start + _SLICE) / len(planned))
            over.wait(max(0.0, due - time.monotonic()))
    finally:
        sender.close(60)
