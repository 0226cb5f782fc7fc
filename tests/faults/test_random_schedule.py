"""Random faults on a mixture of workloads, from a printed seed, so that a failure can be run again.

HEADRACE_FAULTS_MINUTES and HEADRACE_FAULTS_SEED make it the long form: `make faults MINUTES=30 SEED=7`.
"""

import os
import random
import secrets

import pytest

from infra.chaos.installation import Installation
from infra.chaos.main import TASKS_A_MINUTE
from infra.chaos.schedule import run_schedule
from infra.chaos.workloads import mixture

MINUTES = float(os.environ.get("HEADRACE_FAULTS_MINUTES", "0.5"))
SEED = int(os.environ.get("HEADRACE_FAULTS_SEED", "0")) or secrets.randbelow(2**31)


@pytest.mark.timeout(int(MINUTES * 60 + 400))
def test_a_random_schedule_of_faults_loses_nothing(installation: Installation) -> None:
    print(f"seed {SEED}, {MINUTES:g} minutes")
    planned = list(mixture(int(TASKS_A_MINUTE * MINUTES), random.Random(SEED)))
    run = run_schedule(installation, planned, SEED, MINUTES)
    print(run.report())
    assert run.verdict.good, f"seed {SEED}\n{run.verdict}"
    assert run.submitted.ids
