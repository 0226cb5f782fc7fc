"""README and docs/ name only what is there: every path, module, relative link and anchor. The same for what code says
of docs/."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = "agents|benchmarks|docs|examples|gateway|headrace|infra|spark_analytics|tests"
SUFFIXES = "css|html|js|lock|md|png|py|sql|tla|toml|yaml"
PATH = re.compile(rf"(?<![\w./<>-])(?:{FOLDERS})/[\w./-]*[\w/]")
MODULE = re.compile(rf"(?:{FOLDERS})(?:\.\w+)+")
FILE = re.compile(rf"[\w.-]+\.(?:{SUFFIXES})")
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CITED = re.compile(r"docs/[\w./-]*\w(?:#[\w-]+)?")
THEIRS = {"mykinds.py", "infra/secrets"}  # what a reader is to write
NAMES = {file.name for folder in FOLDERS.split("|") for file in (ROOT / folder).rglob("*")}
NAMES |= {file.name for file in ROOT.iterdir()} | THEIRS


def cited_by_code() -> Iterator[tuple[Path, str]]:
    files = [file for folder in FOLDERS.split("|") for file in (ROOT / folder).rglob("*.py")]
    for file in (*files, ROOT / "topics.yaml", ROOT / "Makefile", ROOT / "infra" / "compose.yaml"):
        if file.resolve() != Path(__file__).resolve():
            yield from ((file, cited) for cited in CITED.findall(file.read_text()))


def is_path(name: str) -> bool:
    """Whether a file or folder of that name is there; a design note's number may stand for its name."""
    return (ROOT / name).exists() or any((ROOT / name).parent.glob(f"{Path(name).name}-*"))


def is_module(name: str) -> bool:
    """Whether that is a module, or a name that stands in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        at = ROOT.joinpath(*parts[:length])
        for file in (at.with_suffix(".py"), at / "__init__.py"):
            if file.exists():
                text = file.read_text()
                return all(re.search(rf"\b{part}\b", text) for part in parts[length:])
    return False


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_path_and_module_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    spans = CODE.findall(text)
    missing = [p for p in PATH.findall(text) if not p.startswith(tuple(THEIRS)) and not is_path(p)]
    missing += [s for s in spans if FILE.fullmatch(s) and s not in NAMES]
    missing += [s for s in spans if MODULE.fullmatch(s) and not FILE.fullmatch(s) and not is_module(s)]
    assert missing == []


@pytest.mark.parametrize("page", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


def test_every_page_that_code_cites_is_there() -> None:
    broken = []
    for file, cited in cited_by_code():
        path, _, anchor = cited.partition("#")
        if not is_path(path) or (anchor and anchor not in anchors((ROOT / path).read_text())):
            broken.append(f"{file.relative_to(ROOT)}: {cited}")
    assert broken == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [p.relative_to(ROOT / "docs") for p in DOCS if p.is_relative_to(ROOT / "docs") and p.name != "README.md"]
    assert [str(p) for p in pages if f"({p.as_posix()})" not in index] == []


def test_the_package_map_has_the_layers_that_import_linter_checks() -> None:
    """Every layer of `pyproject.toml` is a row of the map, in that order."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]:
        for container in contract.get("containers", []):
            rows = re.findall(rf"^\| (`{container}/\w.*?) \|", page, re.M)
            drawn = [sorted(re.findall(rf"`{container}/(\w+)", row)) for row in rows]
            assert drawn == [sorted(layer.split(" | ")) for layer in contract["layers"]], container
