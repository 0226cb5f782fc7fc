"""The browser that the tests of the web page drive: an installed Chromium or Chrome.

`make test` runs `python -m infra.chromium` first, which installs it where that is one command (Debian and Ubuntu, as
root) and otherwise says in a sentence what to install. Tests ask `chromium()` for its path.
"""

import os
import shutil
import sys

from headrace.errors import UsageError
from infra.setup import apt_install, can_apt

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """Path of the browser: `CHROMIUM` in the environment, else the first on the PATH. UsageError when there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise UsageError("the tests of the web page need Chromium: install it, or give the path of one in CHROMIUM")
    return found


def main() -> int:
    try:
        chromium()
        return 0
    except UsageError as e:
        if not can_apt():
            print(e, file=sys.stderr)
            return 2
    print("installing chromium, which the tests of the web page drive", flush=True)
    if not apt_install("chromium"):
        print("chromium could not be installed: check the network, or install it by hand", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
