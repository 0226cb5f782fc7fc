"""Task kinds: which functions can be one, and what the error says about those that cannot."""

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


@pytest.mark.parametrize(
    "limits", [{"timeout_s": 0}, {"max_attempts": 0}, {"memory_mb": 1}, {"suffix": "csv"}, {"suffix": ".a/b"}]
)
def test_impossible_limits_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        task(**limits)(lambda: None)


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
        ("no.such.module", "cannot be imported"),
    ):
        with pytest.raises(UsageError, match=words):
            load_kinds(tasks)


def test_two_files_must_not_register_the_same_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("from headrace import task\n@task\ndef same() -> None: ...\n")
    with pytest.raises(UsageError, match=r"two\.py:2.*this name is taken .*one\.py:2"):
        load_kinds(f"{tmp_path / 'one.py'},{tmp_path / 'two.py'}")
