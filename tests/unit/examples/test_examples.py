"""The examples, called as a pool child calls them: with a JSON payload that their type hints check."""

import base64
import bz2
import csv
import gzip
import io
import json
import lzma
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.errors import Invalid
from headrace.kinds import EXAMPLES, Context, Kind, forget_kinds, load_kinds


@pytest.fixture(scope="module")
def kinds() -> Iterator[dict[str, Kind]]:
    forget_kinds()
    yield load_kinds("")
    forget_kinds()


@pytest.fixture
def call(kinds: dict[str, Kind], tmp_path: Path) -> Any:
    def call(name: str, attempt: int = 1, **payload: Any) -> Any:
        return kinds[name].call(json.dumps(payload).encode(), Context("id", attempt, tmp_path, lambda *_: None))

    return call


def test_every_example_is_there_and_says_what_it_does(kinds: dict[str, Kind]) -> None:
    assert set(kinds) == set(EXAMPLES)
    for kind in kinds.values():
        info = kind.info()
        assert info.description
        assert info.schema["properties"]


def test_prime_gives_the_primes_below_its_bound(call: Any) -> None:
    assert len(call("prime", upper_bound=100_000)) == 9592
    assert call("prime", upper_bound=30) == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert [call("prime", upper_bound=n) for n in range(6)] == [[], [], [], [2], [2, 3], [2, 3]]


def test_prime_agrees_with_trial_division_for_every_small_bound(call: Any) -> None:
    primes = [n for n in range(2, 500) if all(n % d for d in range(2, n))]
    for bound in range(500):
        assert call("prime", upper_bound=bound) == [p for p in primes if p < bound]


@pytest.mark.parametrize("bound", [-1, 50_000_001, 1.5, "10", None])
def test_prime_refuses_invalid_bounds(call: Any, bound: object) -> None:
    with pytest.raises(Invalid) as caught:
        call("prime", upper_bound=bound)
    assert caught.value.pointer == "/payload/upper_bound"


UNPACK = {"gzip": gzip.decompress, "bz2": bz2.decompress, "lzma": lzma.decompress, "zlib": zlib.decompress}


@pytest.mark.parametrize("algorithm", UNPACK)
@pytest.mark.parametrize("level", [0, 6, 9])
def test_compression_gives_back_what_went_in(call: Any, algorithm: str, level: int) -> None:
    raw = bytes(range(256)) * 40
    packed = call("compression", data=base64.b64encode(raw).decode(), algorithm=algorithm, level=level)
    assert UNPACK[algorithm](packed) == raw
    assert (
        UNPACK[algorithm](call("compression", text="grün " * 50, algorithm=algorithm, level=level)).decode()
        == "grün " * 50
    )


def test_compression_of_the_same_input_is_the_same_bytes(call: Any) -> None:
    assert call("compression", text="x" * 100) == call("compression", text="x" * 100)
    assert len(call("compression", text="x" * 10_000)) < 100


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"text": "a", "data": "YQ=="},
        {"data": "no base64!"},
        {"text": "a", "level": 10},
        {"text": "a", "algorithm": "rar"},
    ],
)
def test_compression_says_what_is_wrong_at_once(call: Any, payload: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        call("compression", **payload)


ROWS = [{"name": 'a "quoted", cell', "note": "two\nlines", "größe": "007"}, {"name": "ß\t", "note": "", "größe": "1e3"}]


@pytest.mark.parametrize("source", ["csv", "tsv", "json", "yaml"])
@pytest.mark.parametrize("target", ["csv", "tsv", "json", "yaml"])
def test_a_table_survives_every_conversion(call: Any, source: str, target: str) -> None:
    read = {"json": json.loads, "yaml": yaml.safe_load, "csv": _rows(","), "tsv": _rows("\t")}
    text = call("conversion", text=json.dumps(ROWS), source="json", target=source)
    assert read[target](call("conversion", text=text, source=source, target=target)) == ROWS


def _rows(delimiter: str) -> Any:
    return lambda text: list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))


def test_missing_cells_are_null_and_numbers_stay_text_unless_wanted(call: Any) -> None:
    table = "\ufeffa,b,c\n1,,\n007,-2.5e3\n\n1_0,1e999,-0\n"
    assert json.loads(call("conversion", text=table, source="csv", target="json")) == [
        {"a": "1", "b": "", "c": ""},
        {"a": "007", "b": "-2.5e3", "c": None},
        {"a": "1_0", "b": "1e999", "c": "-0"},
    ]
    assert json.loads(call("conversion", text=table, source="csv", target="json", numbers=True)) == [
        {"a": 1, "b": "", "c": ""},
        {"a": "007", "b": -2500.0, "c": None},
        {"a": "1_0", "b": "1e999", "c": 0},
    ]


def test_a_value_that_is_not_a_table_becomes_one(call: Any) -> None:
    def to_csv(value: object) -> str:
        return str(call("conversion", text=json.dumps(value), source="json", target="csv"))

    assert to_csv([]) == ""
    assert to_csv({"a": 1, "b": None, "c": [1, {"d": True}]}) == 'a,b,c\n1,,"[1, {""d"": true}]"\n'
    assert to_csv([1, "x"]) == "value\n1\nx\n"
    assert to_csv([{"a": 1}, {"b": 2}]) == "a,b\n1,\n,2\n"


def test_yaml_of_every_sort_becomes_json(call: Any) -> None:
    text = (
        "date: 2026-11-25\nat: 2026-11-25T10:00:00Z\n1: &x [a, b]\nagain: *x\nbinary: !!binary aGk=\nset: !!set {q}\n"
    )
    found = json.loads(call("conversion", text=text, source="yaml", target="json"))
    assert found == {
        "date": "2026-11-25",
        "at": "2026-11-25T10:00:00+00:00",
        "1": ["a", "b"],
        "again": ["a", "b"],
        "binary": "hi",
        "set": ["q"],
    }


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{n}: &{n} [{','.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("source", "text", "words"),
    [
        ("json", '{"a": 1', "line 1"),
        ("json", "[NaN]", "NaN"),
        ("json", "[" * 100_000, "nested"),
        ("json", "[" * 150 + "]" * 150, "levels"),
        ("json", '["\\ud800"]', "surrogate"),
        ("csv", "a,b\n1,2,3\n", "line 2"),
        ("csv", "a,a\n", "two columns"),
        ("csv", "a,\n", "no name"),
        ("csv", 'a\n"open', "line"),
        ("yaml", "a: [", "yaml"),
        ("yaml", "a: 2026-13-45", "yaml"),
        ("yaml", "!!python/object:os.system {}", "yaml"),
        ("yaml", BOMB, "aliases"),
        ("yaml", "a: &a [*a]", "aliases"),
        ("yaml", "[.inf]", "inf"),
    ],
)
def test_conversion_names_what_it_cannot_read(call: Any, source: str, text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        call("conversion", text=text, source=source, target="json")


def test_fragile_fails_as_often_as_requested(call: Any) -> None:
    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match=f"attempt {attempt}"):
            call("fragile", attempt, how="raise", attempts=2)
    assert call("fragile", 3, how="raise", attempts=2) == {"attempt": 3, "went_wrong_before": 2}


@pytest.mark.parametrize(("how", "code"), [("kill", -signal.SIGKILL), ("exit", 3)])
def test_fragile_ends_its_own_process(how: str, code: int) -> None:
    program = (
        "from pathlib import Path; from headrace.kinds import *; from headrace.kinds import Context, load_kinds;"
        f"load_kinds('')['fragile'].call(b'{{\"how\": \"{how}\"}}', Context('id', 1, Path('.'), lambda *_: None))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=dict(os.environ))
    assert done.returncode == code
    assert b"goes wrong" in done.stdout


def test_fragile_reports_its_progress(kinds: dict[str, Kind], tmp_path: Path) -> None:
    told: list[float] = []
    context = Context("id", 2, tmp_path, lambda fraction, _: told.append(fraction))
    kinds["fragile"].call(b'{"seconds": 0.05}', context)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 3
