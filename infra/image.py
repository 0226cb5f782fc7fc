"""What the Dockerfile runs, a step at a time: `packages`, `connector`, `project`, `strip`.

Imports the standard library and `setup.py` (whose uv it uses), as what else there is of Headrace arrives later. The
locked packages are installed without the development ones; what builds Headrace is taken out again by `strip`, and
everything is compiled, since a role whose root file system is read-only could not keep what it compiles.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from infra.setup import ROOT, environ, find_uv

HOME = Path("/opt/headrace")  # the environment, as the final stage has it
PYTHON = HOME / "bin" / "python"
PROJECT = Path("/opt/project")  # where `project` makes what the final stage has in HOME / "project"
JARS = HOME / "spark-jars"
BUILD_TOOLS = ("hatchling", "pathspec", "pluggy", "trove-classifiers", "pip", "setuptools")


def packages() -> None:
    _uv("install", "--require-hashes", "-r", str(ROOT / "requirements-image.lock"))
    site = subprocess.check_output([PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    (Path(site.strip()) / "headrace.pth").write_text(f"{HOME / 'project'}\n")


def connector() -> None:
    """Run by HOME's Python: the jars come through the Ivy in its pyspark."""
    from infra.local.artifacts import artifact

    shutil.copytree(artifact("spark-kafka"), JARS)


def project() -> None:
    _uv("install", "--offline", "--no-deps", "--no-build-isolation", "--target", str(PROJECT), str(ROOT))
    _compile(PROJECT)


def strip() -> None:
    _uv("uninstall", *BUILD_TOOLS)
    _compile(HOME / "lib")


def _uv(what: str, *arguments: str) -> None:
    command = [str(find_uv()), "pip", what, "--quiet", "--python", str(PYTHON), *arguments]
    subprocess.run(command, check=True, env=environ(), cwd=ROOT)


def _compile(folder: Path) -> None:
    """Valid whatever the files' times become on their way through layers. Packages carry files for other Pythons."""
    how = ["-m", "compileall", "-qq", "-j0", "--invalidation-mode", "unchecked-hash", str(folder)]
    subprocess.run([PYTHON, *how], check=False)


STEPS = {f.__name__: f for f in (packages, connector, project, strip)}

if __name__ == "__main__":
    STEPS[sys.argv[1]]()
