"""The browser for the tests of the web page: an installed Chromium or Chrome.

`make test` first runs `python -m infra.chromium`, which installs it with apt (Debian and Ubuntu, as root) or prints
what to install. Tests get the browser's path from `chromium()`.
"""

import ctypes
import os
import shutil
import sys

from headrace.errors import UsageError

from .setup import apt_install, can_apt

_DRIVER_NEEDS = "libatomic.so.1"  # for the Node in Playwright's package; small systems lack it
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """Path of the browser: `CHROMIUM` in the environment, else the first on the PATH. UsageError when there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise UsageError("the tests of the web page need Chromium: install it, or give the path of one in CHROMIUM")
    return found


def main() -> int:
    wanted, why = [], ""
    try:
        chromium()
    except UsageError as e:
        wanted, why = ["chromium"], str(e)
    try:
        ctypes.CDLL(_DRIVER_NEEDS)
    except OSError:
        wanted.append("libatomic1")
        why = why or f"the tests of the web page need {_DRIVER_NEEDS}: install it"
    if wanted and not can_apt():
        print(why, file=sys.stderr)
        return 2
    for package in wanted:
        print(f"installing {package}, for the tests of the web page", flush=True)
        if not apt_install(package):
            print(f"{package} could not be installed: check the network, or install it by hand", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
