"""What the Dockerfile runs to fill an environment: `packages <venv>`, then `headrace <venv>`.

Standard library alone, as `setup.py`, whose uv it uses. Locked packages without the development ones; what builds the
package itself is taken out again, so that the image holds no build tools.
"""

import subprocess
import sys

from infra.setup import ROOT, environ, find_uv

LOCK = ROOT / "requirements-image.lock"
BUILD_TOOLS = ("hatchling", "pathspec", "pluggy", "trove-classifiers", "pip", "setuptools")


def main(what: str, environment: str) -> int:
    uv = str(find_uv())
    if what == "packages":
        _run([uv, "pip", "install", "--quiet", "--python", environment, "--require-hashes", "-r", str(LOCK)])
    else:
        _run([uv, "pip", "install", "--quiet", "--python", environment, "--no-deps", "--no-build-isolation", str(ROOT)])
        _run([uv, "pip", "uninstall", "--quiet", "--python", environment, *BUILD_TOOLS])
    return 0


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, env=environ(), cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
