"""Headrace: what task authors import, and the contract that all roles share.

Everything here is a leaf: it imports none of the roles. `task` and `Context` are the whole interface for
people who write task kinds.
"""

from headrace.kinds import Context, task

__all__ = ["Context", "task"]
__version__ = "0.1.0"
