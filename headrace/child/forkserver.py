"""Preloaded by the node's forkserver, in which alone it acts: the lean parent of all of the node's children.

It has imported what children need (`headrace.child.main`, pydantic) and nothing of the node's. When the node is gone,
even by `kill -9`, the kernel tells this process, which then kills every child and all that tasks have started: being
a subreaper, it is still above them. Without it a child's own children would outlive a killed node.
"""

import atexit
import os
import signal
import sys
import warnings

import pydantic

import headrace.child.main  # noqa: F401 - the same
from headrace.child.process_tree import adopt_orphans, kill_trees, set_death_signal


def _outlive_nothing() -> None:
    node = os.getppid()

    def end(*_: object) -> None:
        # SIGTERM to a whole service, and the end of the thread that started us, are no end of the node
        if os.getppid() != node:
            kill_trees([os.getpid()], with_roots=False)
            os._exit(0)

    os.setsid()  # signals of a terminal go to the node, which decides
    adopt_orphans()
    signal.signal(signal.SIGTERM, end)
    set_death_signal(signal.SIGTERM)
    # The forkserver calls it unexpected that an adopted orphan ends: here it is the rule.
    warnings.filterwarnings("ignore", message="forkserver: waitpid returned unexpected pid")
    me = os.getpid()
    atexit.register(lambda: kill_trees([me], with_roots=False) if os.getpid() == me else None)


def _load_what_kinds_need() -> None:
    """pydantic imports most of itself with its first model: done here once, all children share it."""
    model = pydantic.create_model("Warm", field=(str | None, pydantic.Field(default=None, alias="name")))
    model.model_json_schema()
    model.model_validate_json(b"{}", strict=True)


_load_what_kinds_need()
if any("multiprocessing.forkserver" in argument for argument in sys.orig_argv):
    _outlive_nothing()
