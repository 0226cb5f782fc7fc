"""Workload × fault × invariant: each fault once, while all workloads run; then the conservation check (I1, I2, I3, I6).

The random schedule (`test_random_schedule.py`) mixes them; here the one that breaks has a name.
"""

import random

import pytest

from headrace.kafka import Sender
from infra.chaos.evidence import EvidenceReader
from infra.chaos.faults import FAULTS
from infra.chaos.installation import Installation
from infra.chaos.listener import Listener
from infra.chaos.schedule import check, wait_quiet
from infra.chaos.workloads import Submitted, heavy, mixture, submit_http, submit_native

HEAVY = 6
MIXED = 120
TINY_AFTER = 40


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_published_twice_or_run_in_vain(installation: Installation, name: str) -> None:
    rng = random.Random(name)
    submitted = Submitted()
    listener = Listener(installation.url).start()
    sender = Sender(installation.kafka)
    submit_http(installation.url, heavy(HEAVY, rng, 1.0, 3.0), submitted)
    submit_native(sender, mixture(MIXED, rng), submitted)
    listener.wait_heard()
    done = FAULTS[name][0](installation, rng)
    submit_native(sender, mixture(TINY_AFTER, rng, heavy_share=0), submitted)
    assert sender.close(30) == 0
    evidence = wait_quiet(EvidenceReader(installation.kafka), submitted.ids, 120)
    listener.wait_for(submitted.ids, 20)
    listener.close()
    verdict = check(installation, submitted, evidence, [done], dict(listener.told))
    assert verdict.good, f"{name}\n{verdict}"
    assert verdict.dead == len(submitted.poison)
    assert submitted.ids <= listener.told.keys(), "a listener that resumed has heard of every end"
