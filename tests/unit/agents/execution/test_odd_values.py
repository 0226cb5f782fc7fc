"""What a child tells of odd results, errors and reports, through the real pool: exact, or refused in words, once."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from agents.execution.pool import Pool
from headrace.contract.exact_json import parse_json
from headrace.contract.progress import Progress
from headrace.contract.states import Cause
from headrace.errors import UsageError
from tests.rigs.pool import Bench, until

ODD = Path(__file__).parents[3] / "rigs" / "odd_values.py"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    progress: list[Progress] = []
    results = tmp_path_factory.mktemp("results")
    pool = Pool(str(ODD), 1, tmp_path_factory.mktemp("pool") / "scratch", results_root=results)
    kinds = pool.start()
    pool.listen(progress.append)
    yield Bench(pool, kinds, progress, results)
    await pool.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nan", r"at /a/1 it holds nan, and JSON has no such number"),
        ("inf", r"at /0 it holds inf"),
        ("minus inf", r"at /0 it holds -inf"),
        ("bare nan", r"holds nan"),
        ("nan in a model", r"at /m/value it holds nan"),
        ("nan in a set", r"at /0 it holds nan"),
        ("nan key", r"holds nan"),
        ("same keys", r"at /d it holds a dict whose keys 1 and '1' become the same JSON key"),
        ("same bool keys", r"keys True and 'true' become"),
        ("tuple key", r"a key of type tuple"),
        ("bytes inside", r"at /a it holds a value of type bytes, which has no JSON form"),
        ("generator", r"type generator"),
        ("function", r"type builtin_function_or_method"),
        ("too long", r"at /n it holds an integer of more than 4300 digits"),
        ("too deep", r"more than 254 levels deep"),
        ("too deep with none", r"more than 254 levels deep"),
        ("circle", r"more than 254 levels deep"),
        ("surrogate text", r"lone surrogate '\\udce9' at character 3"),
        ("surrogate inside", r"at /a/0 it holds text with the lone surrogate '\\udce9'"),
        ("surrogate key", r"text with the lone surrogate"),
    ],
)
async def test_a_result_that_cannot_be_stored_is_refused_in_words_for_good(bench: Bench, what: str, words: str) -> None:
    end = await bench.run("returns", what=what)
    assert (end.cause, end.permanent, end.invalid) == (Cause.ERROR, True, False)
    assert re.search(words, end.detail), end.detail


@pytest.mark.parametrize(
    ("what", "stored"),
    [
        ("big", {"n": [2**70, -(2**70), 10**4299]}),
        ("int keys", {"2.5": "b", "null": "c", "true": "d", "2024-01-02": "e", "1": "f"}),
        ("none", [None, "null", 1.5, True]),
        (
            "leaves",
            ["2024-01-02T03:04:05", "00000000-0000-0000-0000-000000000001", 1, {"n": 1}, [1, 2], [3], None],
        ),
    ],
)
async def test_a_result_that_json_can_hold_is_stored_exactly(bench: Bench, what: str, stored: Any) -> None:
    end = await bench.run("returns", what=what)
    assert end.cause is None, end.detail
    assert parse_json(end.value or b"") == stored


async def test_a_deep_result_with_a_big_integer_is_stored(bench: Bench) -> None:
    end = await bench.run("returns", what="deep")
    assert end.cause is None, end.detail
    assert str(2**70).encode() in (end.value or b"")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("surrogate", r"ValueError: caf\\udce9$"),
        ("long", r"ValueError: x{900}"),
        ("many lines", r"^ValueError: first\n…\n"),
        ("wide", "ValueError: (😀){900}"),
        ("controls", r"ValueError: \\x1b\[2J\\x00 cleared$"),
        ("mute", r"Mute: <exception str\(\) failed>$"),
        ("quits", r"Quits: "),
        ("own", r"Own: mine$"),
        ("interrupt", r"KeyboardInterrupt"),
        ("exit", r"SystemExit: out$"),
        ("chained", r"KeyError: 'first'\n(.|\n)*direct cause(.|\n)*ValueError: second$"),
        ("recursion", r"RecursionError: maximum recursion depth"),
        ("group", r"^ *\|? ?.*ExceptionGroup: several went wrong \(40 sub-exceptions\)"),
        ("syntax", r"Error: "),
        ("decoding", r"UnicodeDecodeError: "),
        ("cancelled", r"CancelledError"),
        ("not an error", r"TypeError: exceptions must derive from BaseException"),
    ],
)
async def test_an_error_is_told_cut_and_printable_with_the_users_frames(bench: Bench, what: str, words: str) -> None:
    end = await bench.run("fails", what=what)
    assert (end.cause, end.permanent) == (Cause.ERROR, False)
    assert re.search(words, end.detail), end.detail
    assert len(end.detail.encode()) <= 4000
    assert not re.search(r"[\ud800-\udfff\x00-\x08\x0b-\x1f]", end.detail)
    assert "attempt.py" not in end.detail
    assert "kinds.py" not in end.detail


@pytest.mark.parametrize("what", ["surrogate", "chained", "own"])
async def test_the_traceback_begins_with_the_users_function(bench: Bench, what: str) -> None:
    end = await bench.run("fails", what=what)
    assert f'File "{ODD}"' in end.detail
    assert "in fails" in end.detail


async def test_progress_never_fails_whatever_it_is_given(bench: Bench) -> None:
    bench.progress.clear()
    end = await bench.run("reports")
    assert (end.cause, end.value) == (None, b"told"), end.detail
    await until(lambda: len(bench.progress) >= 10)
    assert [(p.fraction, p.message[:8]) for p in bench.progress[:10]] == [
        (0.25, "caf\\udce"),
        (0.25, "nan"),
        (0.25, "words"),
        (0.25, ""),
        (0.25, "huge"),
        (0.5, "xxxxxxxx"),
        (0.5, ""),
        (0.5, "\\x1b[2J"),
        (0.5, "b'bytes'"),
        (1.0, "over"),
    ]
    assert all(len(p.message) <= 1000 for p in bench.progress)


@pytest.mark.parametrize("leave", ["", "task", "thread", "generator"])
async def test_an_async_kind_runs_in_a_loop_of_its_own_and_leaves_nothing(bench: Bench, leave: str) -> None:
    for n in (1, 2):
        end = await asyncio.wait_for(bench.run("awaits", timeout_s=30, n=n, leave=leave), 30)
        assert (end.cause, end.value) == (None, str(2 * n).encode()), end.detail


async def test_the_error_of_an_async_kind_shows_its_own_frames(bench: Bench) -> None:
    end = await bench.run("awaits_and_fails")
    assert end.cause is Cause.ERROR
    assert re.search(r"in awaits_and_fails\n(.|\n)*in _deep\n(.|\n)*ValueError: from the depths$", end.detail)
    assert "asyncio" not in end.detail
    assert "event_loop.py" not in end.detail


@pytest.mark.parametrize("n", [2**63, 2**64, -(2**64), 10**4299])
async def test_an_integer_reaches_the_function_and_the_result_exactly(bench: Bench, n: int) -> None:
    end = await bench.run("exact", n=n)
    assert parse_json(end.value or b"") == {"n": n, "text": str(n), "type": "int"}
    end = await bench.run("whole", n=n)
    assert parse_json(end.value or b"") == n + 1


@pytest.mark.parametrize(
    ("what", "stored"),
    [
        ("array", [[1.5, 2.0], [3.0, 4.0]]),
        ("column", {"c": [1, 3]}),
        ("scalars", [0.1, 7, True, 0.5, None]),
        ("scalar key", {"7": "a"}),
        ("time", ["2024-01-02T03:04:05", None]),
        ("nan", r"at /a/0/1/0 it holds nan"),
        ("column with inf", r"at /1 it holds inf"),
        ("nan scalar", r"at /0 it holds nan"),
    ],
)
async def test_numpy_values_are_stored_or_refused_like_pythons(bench: Bench, what: str, stored: Any) -> None:
    end = await bench.run("returns_numpy", what=what)
    if isinstance(stored, str):
        assert end.permanent
        assert re.search(stored, end.detail), end.detail
    else:
        assert end.cause is None, end.detail
        assert orjson.loads(end.value or b"") == stored


async def test_an_import_that_takes_too_long_says_what_to_raise(tmp_path: Path) -> None:
    kinds = tmp_path / "slow.py"
    kinds.write_text("import time\nfrom headrace import task\ntime.sleep(60)\n")
    pool = Pool(str(kinds), 1, tmp_path / "pool", import_s=1.5)
    with pytest.raises(UsageError, match=r"takes more than 1\.5 s: raise HEADRACE_IMPORT_S"):
        pool.start()


async def test_an_import_error_with_a_lone_surrogate_is_told(tmp_path: Path) -> None:
    kinds = tmp_path / "broken.py"
    kinds.write_text("raise ValueError('caf\\udce9' + 'x' * 100_000)\n")
    pool = Pool(str(kinds), 1, tmp_path / "pool")
    with pytest.raises(UsageError, match=r"ValueError: caf\\udce9x+… \(.*broken\.py, line 1\)"):
        pool.start()
