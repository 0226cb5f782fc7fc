"""The steps of the Dockerfile: `python3 -m infra.image.steps packages|connector|project|strip`.

Imports only the standard library and `infra.setup` (for its uv), because the rest of Headrace is copied into the image
later. The locked packages are installed without the development ones, and `strip` removes the build tools again.
Everything is compiled here, since a role with a read-only root file system could not keep bytecode.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from ..setup import ROOT, environ, find_uv

HOME = Path("/opt/headrace")  # the environment in the final stage
PYTHON = HOME / "bin" / "python"
PROJECT = Path("/opt/project")  # `project` installs here; the final stage has it in HOME / "project"
JARS = HOME / "spark-jars"
BUILD_TOOLS = ("hatchling", "pathspec", "pluggy", "trove-classifiers", "pip", "setuptools")


def packages() -> None:
    """Installs the locked packages, and a .pth file that adds the project's directory to Python's path."""
    _uv("install", "--require-hashes", "-r", str(ROOT / "requirements-image.lock"))
    site = subprocess.check_output([PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    (Path(site.strip()) / "headrace.pth").write_text(f"{HOME / 'project'}\n")


def connector() -> None:
    """Copies Spark's Kafka connector to JARS. Needs HOME's Python: the Ivy in its pyspark downloads the jars."""
    from ..local.artifacts import artifact

    shutil.copytree(artifact("spark-kafka"), JARS)


def project() -> None:
    """Installs Headrace itself, without its dependencies."""
    _uv("install", "--offline", "--no-deps", "--no-build-isolation", "--target", str(PROJECT), str(ROOT))
    _compile(PROJECT)


def strip() -> None:
    """Removes the build tools and compiles what is left."""
    _uv("uninstall", *BUILD_TOOLS)
    _compile(HOME / "lib")


def _uv(command: str, *arguments: str) -> None:
    whole = [str(find_uv()), "pip", command, "--quiet", "--python", str(PYTHON), *arguments]
    subprocess.run(whole, check=True, env=environ(), cwd=ROOT)


def _compile(folder: Path) -> None:
    """Bytecode by hash stays valid when layers change file times. Files for other Pythons fail to compile: ignored."""
    how = ["-m", "compileall", "-qq", "-j0", "--invalidation-mode", "unchecked-hash", str(folder)]
    subprocess.run([PYTHON, *how], check=False)


STEPS = {f.__name__: f for f in (packages, connector, project, strip)}

if __name__ == "__main__":
    STEPS[sys.argv[1]]()
