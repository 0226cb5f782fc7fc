"""The main loop of a pool's child: one request after another, until the node is gone or closes the link.

Started by `agents.execution.child` through the forkserver. Begun is sent before anything of the task runs and Ended
after all of it, so the node knows at any moment whose process it would be that dies.
"""

import os
import socket

from headrace.child.attempt import Setup, describe_kinds, initialize, run_attempt
from headrace.child.protocol import Begun, DescribeKinds, Reader, Request, pack, receive


def serve(setup: Setup, link: socket.socket) -> None:
    """Until the link ends. A task that has closed the link's descriptor ends this process with it."""
    initialize(setup)
    try:
        for frame in receive(link, Reader()):
            if isinstance(frame, DescribeKinds):
                link.sendall(pack(DescribeKinds(describe_kinds())))
            elif isinstance(frame, Request):
                link.sendall(pack(Begun(frame.id, frame.attempt)))
                link.sendall(pack(run_attempt(frame)))
    except OSError:
        os._exit(1)
    os._exit(0)  # whatever threads and exit handlers a task has left
