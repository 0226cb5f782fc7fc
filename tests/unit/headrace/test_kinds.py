"""Task kinds: which functions can be one, and what the error says about those that cannot."""

import asyncio
import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from headrace import Context, task
from headrace.contract.payload_check import PayloadCheck
from headrace.errors import Invalid, UsageError
from headrace.kind_rules import is_valid_suffix
from headrace.kinds import _registry as registry
from headrace.kinds import forget_kinds, load_kinds


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    forget_kinds()
    yield
    forget_kinds()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context("id", 2, tmp_path, lambda *_: None)


def test_type_hints_are_the_schema_and_the_function_gets_python_values(context: Context) -> None:
    @task
    def scale(factor: float, values: list[int], mode: Literal["up", "down"] = "up", json: bool = False) -> list[float]:
        """Scales values."""
        return [v * factor for v in values]

    kind = registry["scale"]
    assert kind.call(b'{"factor": 2, "values": [1, 2]}', context) == [2.0, 4.0]
    info = kind.info()
    assert info.schema["required"] == ["factor", "values"]
    assert set(info.schema["properties"]) == {"factor", "values", "mode", "json"}
    assert (info.description, info.timeout_s, info.max_attempts) == ("Scales values.", 3600.0, 3)
    check = PayloadCheck(info)
    assert not check.problems({"factor": 1.5, "values": []})
    assert check.problems({"factor": 1.5, "values": [], "unknown": 1})


@pytest.mark.parametrize(
    ("payload", "pointer"),
    [
        (b'{"factor": "2", "values": []}', "/payload/factor"),
        (b'{"factor": 2, "values": [1, "x"]}', "/payload/values/1"),
        (b'{"factor": 2}', "/payload/values"),
        (b'{"factor": 2, "values": [], "more": 1}', "/payload/more"),
    ],
)
def test_a_payload_of_the_wrong_type_is_invalid_and_its_field_is_named(
    payload: bytes, pointer: str, context: Context
) -> None:
    @task
    def scale(factor: float, values: list[int]) -> None: ...

    with pytest.raises(Invalid) as caught:
        registry["scale"].call(payload, context)
    assert caught.value.pointer == pointer


def test_the_context_is_passed_and_is_not_part_of_the_payload(context: Context) -> None:
    @task(name="own-name")
    def f(here: Context, n: int = 1) -> str:
        return f"{here.id} {here.attempt} {n}"

    assert registry["own-name"].call(b"{}", context) == "id 2 1"
    assert set(registry["own-name"].info().schema["properties"]) == {"n"}


def positional(a: int, /) -> None: ...
def starred(*a: int) -> None: ...
def unschemable(a: Callable[[], None]) -> None: ...
def unresolvable(a: "NoSuchType") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("function", [positional, starred, unschemable, unresolvable])
def test_a_function_that_cannot_be_a_kind_is_refused_at_its_decorator(function: Callable[..., None]) -> None:
    with pytest.raises(UsageError, match=function.__name__):
        task(function)


class Holder:
    def method(self, n: int) -> int:
        return n

    @staticmethod
    def static(n: int) -> int:
        return n

    @classmethod
    def of_class(cls, n: int) -> int:
        return n


def yields(n: int) -> Iterator[int]:
    yield n


async def yields_later(n: int) -> Any:
    yield n


def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(**arguments: Any) -> Any:
        return function(**arguments)

    return call


REFUSED: dict[str, tuple[Any, str]] = {
    "generator": (yields, "a generator function"),
    "async generator": (yields_later, "a generator function"),
    "wrapped generator": (wrapping(yields), "a generator function"),
    "lambda": (lambda n: n, "a lambda"),
    "method": (Holder.method, "a method"),
    "bound method": (Holder().method, "a method"),
    "static method": (Holder.__dict__["static"], "a method"),
    "class method": (Holder.__dict__["of_class"], "a method"),
    "partial": (functools.partial(yields, 1), r"a functools\.partial"),
    "class": (Holder, "a class"),
    "object": (Holder(), "an object of type Holder"),
    "number": (3, "an object of type int"),
    "text": ("prime", r"give the name as @task\(name='prime'\)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_function_is_refused_with_file_and_line(what: str) -> None:
    function, words = REFUSED[what]
    with pytest.raises(UsageError, match=words) as caught:
        task(function)
    assert re.search(rf"\({re.escape(__file__)}:\d+\)", str(caught.value))
    with pytest.raises(UsageError, match=words):
        task(function) if what == "text" else task(name="named")(function)
    assert not registry


def unannotated(context, n: int = 1) -> None: ...  # type: ignore[no-untyped-def]
def optional(c: Context | None = None) -> None: ...
def two(a: Context, b: Context) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (unannotated, "annotate the parameter as `context: headrace.Context`"),
        (optional, "annotate the parameter as `c: headrace.Context`"),
        (two, "parameters a and b both take the Context"),
    ],
)
def test_a_context_must_be_annotated_as_one(function: Callable[..., None], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        task(function)
    assert f"{__file__}:" in str(caught.value)


def test_a_payload_may_have_a_parameter_named_context() -> None:
    @task
    def f(context: str, here: Context) -> None: ...

    assert set(registry["f"].info().schema["properties"]) == {"context"}


def test_a_name_used_twice_is_refused_with_both_places() -> None:
    @task
    def same() -> None: ...

    first = registry["same"]
    with pytest.raises(UsageError, match=rf"@task same \({re.escape(__file__)}:\d+\): this name is taken") as caught:

        @task(name="same")
        def other() -> None: ...

    assert str(caught.value).count(__file__) == 2
    with pytest.raises(UsageError, match="taken"):
        task(same)
    assert registry["same"] is first


def test_a_file_that_is_imported_again_registers_its_kinds_again(tmp_path: Path) -> None:
    kinds = tmp_path / "again.py"
    kinds.write_text("from headrace import task\n@task\ndef hello() -> str:\n    return 'hi'\n")
    first = load_kinds(str(kinds))["hello"]
    assert load_kinds(f"{kinds},{kinds}")["hello"] is not first


def test_functions_made_in_a_loop_are_kinds(context: Context) -> None:
    for n in (1, 2):

        @task(name=f"add-{n}")
        def add(to: int, n: int = n) -> int:
            return to + n

    assert [registry[f"add-{n}"].call(b'{"to": 1}', context) for n in (1, 2)] == [2, 3]


def test_a_wrapped_function_is_a_kind(context: Context) -> None:
    @task
    @wrapping
    def double(n: int) -> int:
        return 2 * n

    assert registry["double"].call(b'{"n": 2}', context) == 4


async def sleeps(n: int) -> int:
    await asyncio.sleep(0)
    return n


def test_async_functions_are_kinds_wrapped_or_not(context: Context) -> None:
    task(name="plain")(sleeps)
    task(name="wrapped")(wrapping(sleeps))
    assert [registry[name].call(b'{"n": 2}', context) for name in ("plain", "wrapped")] == [2, 2]


@pytest.mark.parametrize(
    "limits",
    [
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
        {"timeout_s": "10"},
        {"max_attempts": 0},
        {"max_attempts": 2.5},
        {"max_attempts": True},
        {"memory_mb": 1},
        {"memory_mb": 64.5},
        {"reuse_process": "yes"},
        {"suffix": "csv"},
        {"suffix": ".a/b"},
        {"content_type": "csv"},
        {"content_type": "text/csv\nx: y"},
        {"name": ""},
        {"name": "a\nb"},
        {"name": "caf\udce9"},
        {"name": "x" * 201},
    ],
)
def test_impossible_limits_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"@task .*{re.escape(__file__)}:\d+"):
        task(**limits)(wanted)
    assert not registry


@pytest.mark.parametrize("content_type", ["text/csv", "text/plain; charset=utf-8", "application/vnd.api+json"])
def test_media_types_are_content_types(content_type: str) -> None:
    task(content_type=content_type)(wanted)
    assert registry["wanted"].content_type == content_type


def wanted() -> None: ...


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        (".csv", True),
        (".tar.gz", True),
        ("", False),
        (".", False),
        ("csv", False),
        (".a.b.c", False),
        (".../x", False),
        (".é", False),
        ("." + "a" * 17, False),
    ],
)
def test_suffixes_are_a_dot_and_letters(suffix: str, expected: bool) -> None:
    assert is_valid_suffix(suffix) is expected


def test_modules_and_files_are_loaded_and_a_broken_one_is_named(tmp_path: Path) -> None:
    good, broken, empty = tmp_path / "good.py", tmp_path / "broken.py", tmp_path / "empty.py"
    good.write_text("from headrace import task\n@task\ndef hello() -> str:\n    return 'hi'\n")
    broken.write_text("import no_such_module_anywhere\n")
    empty.write_text("")
    assert set(load_kinds(f" {good} ,")) == {"hello"}
    forget_kinds()
    for tasks, words in (
        (str(broken), "no_such_module_anywhere"),
        (str(empty), "registers no task kind"),
        (str(tmp_path / "none.py"), "no file"),
        ("no.such.module", "there is no module 'no' in"),
    ):
        with pytest.raises(UsageError, match=words):
            load_kinds(tasks)


BROKEN = {
    "import no_such_package": r"'no_such_package' \({file}, line 2\)\. .*{python} -m pip install no_such_package$",
    "import no_such.part": r"pip install no_such$",
    "import json.no_such": r"No module named 'json.no_such' \({file}, line 2\)$",
    "import orjson.no_such": r"\({file}, line 2\)\. The installed orjson has no such module",
    "def f(:": r"SyntaxError: invalid syntax \({file}, line 2\)$",
    "import json; json.loads('{{')": r"JSONDecodeError: .* \({file}, line 2\)$",
    "raise SystemExit(3)": r"it calls sys.exit \(SystemExit: 3\) \({file}, line 2\)$",
    "class E(Exception):\n    def __str__(self): 1 / 0\nraise E": r"cannot be imported: E \({file}, line 4\)$",
    "raise ValueError('x' * 100_000)": r"x… \({file}, line 2\)$",
}


@pytest.mark.parametrize("line", BROKEN)
def test_an_import_error_names_the_users_line_and_what_helps(tmp_path: Path, line: str) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(f"from headrace import task\n{line}\n")
    with pytest.raises(UsageError) as caught:
        load_kinds(str(broken))
    expected = BROKEN[line].format(file=re.escape(str(broken)), python=re.escape(sys.executable))
    assert re.search(expected, str(caught.value)), caught.value
    assert len(str(caught.value)) < 2000


def test_an_import_error_in_a_module_that_the_kinds_import_names_that_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "inner_part.py").write_text("\nimport no_such_package\n")
    (tmp_path / "outer_kinds.py").write_text("import inner_part\n")
    with pytest.raises(UsageError, match=rf"\({re.escape(str(tmp_path / 'inner_part.py'))}, line 2\)"):
        load_kinds("outer_kinds")


def test_two_files_must_not_register_the_same_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("from headrace import task\n@task\ndef same() -> None: ...\n")
    with pytest.raises(UsageError, match=r"two\.py:2.*this name is taken .*one\.py:2"):
        load_kinds(f"{tmp_path / 'one.py'},{tmp_path / 'two.py'}")
