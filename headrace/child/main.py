"""The main loop of a pool's child: one request after another, until the node closes the link or ends.

Started by `agents.execution.child` through the forkserver. The child sends Begun before any of the task's code runs and
Ended after all of it has run, so the node always knows which attempt a dying child was running.
"""

import os
import socket

from headrace.child.attempt import Setup, describe_kinds, initialize, run_attempt
from headrace.child.protocol import Begun, DescribeKinds, FrameReader, Request, pack_frame, receive_frames


def serve(setup: Setup, link: socket.socket) -> None:
    """Runs until the link ends, then exits the process. A task that closes the link's descriptor ends it too."""
    initialize(setup)
    try:
        for frame in receive_frames(link, FrameReader()):
            if isinstance(frame, DescribeKinds):
                link.sendall(pack_frame(DescribeKinds(describe_kinds())))
            elif isinstance(frame, Request):
                link.sendall(pack_frame(Begun(frame.id, frame.attempt)))
                link.sendall(pack_frame(run_attempt(frame)))
    except OSError:
        os._exit(1)
    os._exit(0)  # does not wait for threads and exit handlers that tasks have left
