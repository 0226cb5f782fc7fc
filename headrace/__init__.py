"""Headrace: what authors of task kinds import, and what all roles share.

`task` and `Context` are the whole interface for authors. Imports none of the roles.
"""

from headrace.kinds import Context, task

__all__ = ["Context", "task"]
__version__ = "0.1.0"
