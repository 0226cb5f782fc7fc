"""The node's forkserver: the lean parent of all its children. multiprocessing preloads this module in it.

It has imported what children need (`headrace.child.main`, pydantic) and nothing of the node's. When the node ends, even
by `kill -9`, the kernel signals this process, which then kills every child and all that tasks have started: as a
subreaper it is still their ancestor. Without it a child's own children would outlive a killed node.
"""

import atexit
import os
import signal
import sys
import warnings

import pydantic

import headrace.child.main  # noqa: F401 - preloaded for the children
from headrace.child.process_tree import adopt_orphans, kill_trees, set_death_signal


def _end_with_the_node() -> None:
    node = os.getppid()

    def end_if_orphaned(*_: object) -> None:
        # SIGTERM also comes when a whole service stops, or when the thread that started us ends: the node lives then.
        if os.getppid() != node:
            kill_trees([os.getpid()], with_roots=False)
            os._exit(0)

    os.setsid()  # signals of a terminal go to the node, which decides
    adopt_orphans()
    signal.signal(signal.SIGTERM, end_if_orphaned)
    set_death_signal(signal.SIGTERM)
    # multiprocessing warns when a process ends that it did not fork: adopted orphans do so all the time.
    warnings.filterwarnings("ignore", message="forkserver: waitpid returned unexpected pid")
    forkserver = os.getpid()
    atexit.register(lambda: kill_trees([forkserver], with_roots=False) if os.getpid() == forkserver else None)


def _preload_pydantic() -> None:
    """pydantic imports most of itself with its first model: here that happens once for all children."""
    model = pydantic.create_model("Warm", field=(str | None, pydantic.Field(default=None, alias="name")))
    model.model_json_schema()
    model.model_validate_json(b"{}", strict=True)


_preload_pydantic()
if any("multiprocessing.forkserver" in argument for argument in sys.orig_argv):  # not where a test imports the module
    _end_with_the_node()
