"""Virtual environments as users have them: Headrace from a wheel or as editable, and the packages of one extra alone.

The packages are links into the environment of this test run, so an environment takes a second and no network. What is
not required by the extra is not there.
"""

import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

from infra.setup import ROOT, environ, find_uv

BUILD_TOOLS = ("hatchling==1.33.0",)


def build(kind: str, source: Path, folder: Path) -> Path:
    """The `wheel` or `sdist` of a source tree, made in `folder`."""
    run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)], cwd=source)
    [made] = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


def requirements(wheel: Path, extra: str = "") -> list[Requirement]:
    """What the wheel's metadata asks for without an extra, and with this one."""
    with ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().splitlines()
    asked = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")]
    return [r for r in asked if r.marker is None or r.marker.evaluate({"extra": extra})]


def closure(wanted: Iterable[Requirement]) -> dict[str, Distribution]:
    """The distributions that these requirements bring along, themselves included, by name; from this environment."""
    found: dict[str, Distribution] = {}
    todo = [(r.name.lower(), tuple(sorted(r.extras))) for r in wanted]
    seen = set(todo)
    while todo:
        name, extras = todo.pop()
        found[name] = distribution(name)
        for line in found[name].requires or []:
            required = Requirement(line)
            if required.marker is None or any(required.marker.evaluate({"extra": e}) for e in ("", *extras)):
                item = (required.name.lower(), tuple(sorted(required.extras)))
                if item not in seen:
                    seen.add(item)
                    todo.append(item)
    return found


class Environment:
    """A fresh virtual environment in `folder`."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        [self.site] = (folder / "lib").glob("python*/site-packages")

    def link(self, distributions: Iterable[Distribution]) -> None:
        """Makes these distributions of the test run importable here."""
        for each in distributions:
            for top in {file.parts[0] for file in each.files or [] if file.parts[0] not in ("..", "__pycache__")}:
                if not (self.site / top).exists():
                    (self.site / top).symlink_to(each.locate_file(top))

    def install(self, *what: str) -> None:
        """`uv pip install` without dependencies and network."""
        uv = [str(find_uv()), "pip", "install", "--quiet", "--offline", "--python", str(self.python)]
        run([*uv, "--no-deps", "--no-build-isolation", *what])

    def install_wheel(self, wheel: Path, extra: str = "") -> "Environment":
        """The wheel and the packages of one extra."""
        self.link(closure(requirements(wheel, extra)).values())
        self.install(str(wheel))
        return self

    def install_editable(self, wheel: Path, extra: str) -> "Environment":
        """This checkout as editable, with the packages that the wheel names for the extra."""
        tools = [Requirement(tool) for tool in BUILD_TOOLS]
        self.link(closure([*requirements(wheel, extra), *tools]).values())
        self.install("-e", str(ROOT))
        return self


def run(command: list[str], cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, env=environ(), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
