"""Imports the task kinds once and says why that fails, as a program: `up` runs it before it starts anything.

    python -m headrace.child.import_check TASKS IMPORT_PATH [UID GID]

Exits with 0 when a node could announce the kinds, and with 2 after a last line on its output that says what to change.
What the modules print comes before that line; a module that ends the process gives its own exit code.
"""

import os
import resource
import sys

from headrace.child.user import ChildUser, drop_privileges
from headrace.contract.exact_json import encode_json
from headrace.contract.printable import printable
from headrace.errors import UsageError
from headrace.installation import path_for_kinds
from headrace.kinds import load_kinds


def main(arguments: list[str]) -> int:
    """The exit code."""
    tasks, import_path, *user = arguments
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if user:
        drop_privileges(ChildUser(int(user[0]), int(user[1])))
    sys.path[:] = path_for_kinds(import_path, sys.path)
    try:
        for kind in load_kinds(tasks).values():
            encode_json(kind.info().to_json())
    except UsageError as e:
        print(printable(str(e)).replace("\n", " "), flush=True)
        return 2
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # what the modules have started is not waited for
