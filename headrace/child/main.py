"""The main loop of a pool's child: one request after another, until the node closes the link or ends.

Started by `agents.execution.child` through the forkserver. Begun is sent before any of the task's code runs, and Gone
when all of it is dead, so the node always knows which attempt a dying process was running.
"""

import os
import socket
import time
from dataclasses import replace

from headrace.child.kept_runner import KeptRunner
from headrace.child.protocol import DescribeKinds, FrameReader, Request, pack_frame, receive_frames
from headrace.child.runner import run_here, run_in_fork
from headrace.child.zygote import Setup, become_zygote, describe_kinds


def serve(setup: Setup, link: socket.socket) -> None:
    """Runs until the link ends, then exits the process."""
    zygote = become_zygote(setup, link.fileno())
    kept = KeptRunner(zygote, link)
    try:
        for frame in receive_frames(link, FrameReader()):
            if isinstance(frame, DescribeKinds):
                link.sendall(pack_frame(DescribeKinds(describe_kinds(zygote))))
            elif isinstance(frame, Request):
                begun = time.perf_counter()
                if zygote.threads:
                    run_here(zygote, frame, link)
                if kept.takes(frame):
                    gone = kept.run(frame)
                else:
                    kept.end()
                    gone = run_in_fork(zygote, frame, link)
                link.sendall(pack_frame(replace(gone, took_s=time.perf_counter() - begun)))
    except OSError:
        os._exit(1)
    os._exit(0)  # does not wait for threads and exit handlers of the kinds' modules
