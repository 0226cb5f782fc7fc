"""The two shapes of an installation: where modules are, and what task kinds find on their path."""

import ast
import sys
from pathlib import Path

import pytest

from headrace import installation
from headrace.errors import UsageError
from headrace.installation import check_extras, load_part, missing_packages, module_name, part_folder, path_for_kinds

TREE = Path(__file__).parents[3]


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A site-packages folder with Headrace and a user's `agents` in it; returns the folder."""
    for name in ("headrace/agents", "agents"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(installation, "_PACKAGE", tmp_path / "headrace")
    return tmp_path


def test_a_checkout_has_its_parts_beside_the_package() -> None:
    assert installation.checkout() == TREE
    assert module_name("agents.worker.main") == "agents.worker.main"
    assert part_folder("examples") == TREE / "examples"


def test_a_wheel_has_them_in_the_package(wheel: Path) -> None:
    assert installation.checkout() is None
    assert module_name("agents.worker.main") == "headrace.agents.worker.main"
    assert part_folder("examples") == wheel / "headrace" / "examples"


def test_in_a_checkout_kinds_look_in_the_tree_last() -> None:
    assert path_for_kinds("/user", ["", str(TREE), "/site", "/user"]) == ["/user", "/site", str(TREE)]
    assert path_for_kinds(str(TREE), ["/site"]) == ["/site", str(TREE)]
    assert path_for_kinds("/user", ["/site"]) == ["/user", "/site"]


def test_in_a_wheel_kinds_keep_the_whole_path(wheel: Path) -> None:
    assert path_for_kinds("/user", ["", "/stdlib", str(wheel)]) == ["/user", "/stdlib", str(wheel)]


def test_in_a_checkout_a_role_looks_in_the_tree_first(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [p for p in sys.path if p != str(TREE)]
    monkeypatch.setattr(sys, "path", [*others, str(TREE)])
    assert load_part("agents.worker.main").__name__ == "agents.worker.main"
    assert sys.path == [str(TREE), *others]


METADATA = [
    "click>=8.1",
    "faust-streaming>=0.11; extra == 'worker'",
    "no-such-package[x]>=1; extra == 'worker'",
    "another.one; extra == 'gateway'",
    'no_such; python_version < "3" and extra == "gateway"',
    "click; extra == 'analytics'",
]


def test_missing_packages_of_an_extra_are_named_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: METADATA)
    assert missing_packages("worker") == ["no-such-package"]
    check_extras("a role", ["analytics"])
    with pytest.raises(UsageError, match=r"^a role needs .*\(no-such-package\): pip install 'headrace\[worker\]'$"):
        check_extras("a role", ["analytics", "worker"])
    with pytest.raises(UsageError, match=r"\(another.one, no-such-package, no_such\): pip install 'headrace\[all\]'$"):
        check_extras("a role", ["gateway", "worker"], "all")


def test_an_installation_without_metadata_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def none(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", none)
    assert missing_packages("worker") == []


def test_parts_name_each_other_only_relatively() -> None:
    """An absolute name works in the tree alone; the test of the wheel would miss it inside a function."""
    parts = ("agents", "examples", "gateway", "infra", "spark_analytics")
    found = []
    for file in (f for part in (*parts, "headrace") for f in (TREE / part).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found += [f"{file.relative_to(TREE)}: {name}" for name in names if name.split(".")[0] in parts]
    assert found == []
