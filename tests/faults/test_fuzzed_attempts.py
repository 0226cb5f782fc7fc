"""Random attempts on a real pool, each with the end that it must have, and canaries that look for what others left.

The seed is printed, and each attempt is drawn from the seed and its number alone. The long form, or one attempt again:

    make faults ATTEMPTS=10000
    HEADRACE_FUZZ_SEED=7 HEADRACE_FUZZ_FIRST=4711 HEADRACE_FUZZ_ATTEMPTS=1 pytest tests/faults/test_fuzzed_attempts.py
"""

import asyncio
import os
import secrets
import uuid
from pathlib import Path

import pytest

from agents.execution.pool import Pool
from tests.faults.fuzz.leftovers import MARK, Leftovers
from tests.faults.fuzz.runs import Fuzz

ATTEMPTS = int(os.environ.get("HEADRACE_FUZZ_ATTEMPTS", "80"))
FIRST = int(os.environ.get("HEADRACE_FUZZ_FIRST", "0"))
SEED = int(os.environ.get("HEADRACE_FUZZ_SEED", "0")) or secrets.randbelow(2**31)
SLOTS = 2
_ROUND = 250  # attempts after which the machine is looked at
_WARM = 1000  # attempts after which memory may not grow any more
_GROWN_MB = 25.0
_SHOWN = 20
_KINDS = sorted(p for p in (Path(__file__).parent / "fuzz" / "kinds").glob("*.py") if p.name != "__init__.py")


@pytest.mark.timeout(120 + 2 * ATTEMPTS)
async def test_no_attempt_leaves_anything_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"seed {SEED}, attempts {FIRST} to {FIRST + ATTEMPTS - 1}")
    mark = f"fuzz-{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv(MARK, mark)
    results = tmp_path / "results"
    results.mkdir()
    pool = Pool(",".join(map(str, _KINDS)), SLOTS, tmp_path / "pool", results_root=results)
    kinds = await asyncio.to_thread(pool.start)
    pool.listen()
    try:
        fuzz = Fuzz(pool, kinds, results, SEED)
        for _ in range(4):  # until every slot has run one
            await asyncio.gather(*(fuzz.canary() for _ in range(SLOTS)))
        leftovers, memory = Leftovers(tmp_path / "pool", mark), []
        for first in range(FIRST, FIRST + ATTEMPTS, _ROUND):
            numbers = range(first, min(first + _ROUND, FIRST + ATTEMPTS))
            await fuzz.run(numbers, SLOTS)
            fuzz.complaints += [f"after {numbers}: {wrong}" for wrong in await leftovers.complaints()]
            fuzz.complaints += [f"after {numbers}: {wrong}" for wrong in [pool.check()] if wrong]
            memory.append(leftovers.megabytes())
            _tell(fuzz, numbers, memory[-1])
            if len(fuzz.complaints) > _SHOWN:
                break
    finally:
        await pool.close()
    warm = memory[_WARM // _ROUND :]
    grown = {name: warm[-1][name] - warm[0][name] for name in ("node", "children")} if warm else {}
    fuzz.complaints += [f"the memory of {n} grew by {mb:.0f} MB" for n, mb in grown.items() if mb > _GROWN_MB]
    shown = "\n".join(fuzz.complaints[:_SHOWN])
    assert not fuzz.complaints, f"seed {SEED}: {len(fuzz.complaints)} complaints\n{shown}"
    assert not (tmp_path / "pool").exists()


def _tell(fuzz: Fuzz, numbers: range, memory: dict[str, float]) -> None:
    print(f"{numbers[-1] + 1 - FIRST} attempts, {len(fuzz.complaints)} complaints, MB: {memory}", *fuzz.complaints[-3:])
    if numbers[-1] + 1 - FIRST >= ATTEMPTS:
        print("\n".join(f"{count:6} {what}" for what, count in sorted(fuzz.counts.items())))
