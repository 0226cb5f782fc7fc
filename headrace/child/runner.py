"""The runner: the process that runs one attempt and nothing else, forked by the slot's child.

Called by `headrace.child.main`. `run_in_fork` returns when the runner has ended and everything that it started is gone.
Where the child must not be forked (`headrace.child.threads`), `run_here` makes the child itself the runner of its only
attempt. A task's errors end up in its `Ended`; a runner that cannot even send that ends with an exit code.
"""

import contextlib
import os
import signal
import socket
import time
from os import _exit, getpid, setsid, waitpid, waitstatus_to_exitcode  # bound here, as process_tree says; not fork
from typing import NoReturn

from headrace.child.attempt import run_attempt
from headrace.child.leftovers import kill_leftovers
from headrace.child.process_tree import die_with
from headrace.child.protocol import Begun, Ended, Gone, Request, pack_frame
from headrace.child.zygote import Zygote

MAX_ANSWER_BYTES = 512 * 1024  # above what a datagram holds: INLINE_BYTES and the head of a frame


def run_in_fork(zygote: Zygote, request: Request, link: socket.socket) -> Gone:
    """Runs the attempt in a new process. The runner itself sends Begun: no word of the task has run before it."""
    # A socket of this attempt alone: a task that fills or closes it harms no later one. A datagram is whole or absent.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        child = getpid()
        try:
            pid = os.fork()
        except OSError as e:
            return Gone(request.id, request.attempt, fork_error=f"{type(e).__name__}: {e}")
        if pid == 0:
            ours.close()
            _be_the_runner(zygote, request, link, theirs, child)
        exit_code = wait_for(pid)
        kill_leftovers(spare=zygote.helpers)
        answer = None
        with contextlib.suppress(BlockingIOError):
            answer = ours.recv(MAX_ANSWER_BYTES, socket.MSG_DONTWAIT)
    return Gone(request.id, request.attempt, exit_code, answer)


def run_here(zygote: Zygote, request: Request, link: socket.socket) -> NoReturn:
    """Runs the attempt in this process and ends it. Gone is sent before: the node waits for this process's end too."""
    ended, begun = None, time.perf_counter()
    with contextlib.suppress(OSError):
        link.sendall(pack_frame(Begun(request.id, request.attempt, getpid(), zygote.memory)))
        ended = _run(zygote, request)
        kill_leftovers(spare=frozenset())
        took_s = time.perf_counter() - begun
        link.sendall(pack_frame(Gone(request.id, request.attempt, 0, pack_frame(ended), took_s=took_s)))
    _exit(0 if ended is not None else 1)  # does not wait for threads and exit handlers that the task has left


def _be_the_runner(
    zygote: Zygote, request: Request, link: socket.socket, answers: socket.socket, child: int
) -> NoReturn:
    exit_code = 1
    try:
        setsid()  # a task that signals its process group reaches itself
        die_with(child)
        link.sendall(pack_frame(Begun(request.id, request.attempt, getpid(), zygote.memory)))
        link.close()  # what it says from now on cannot be taken for the child's word
        for prepare in zygote.after_fork:
            prepare()
        _send(_run(zygote, request), answers)
        exit_code = 0
    finally:
        _exit(exit_code)  # whatever is raised, it must not go on in the child's own frames below this one


def _run(zygote: Zygote, request: Request) -> Ended:
    runner = getpid()
    if zygote.on_child_end is not signal.SIG_DFL:
        signal.signal(signal.SIGCHLD, zygote.on_child_end)
    ended = run_attempt(request, zygote.setup)
    if getpid() != runner:
        _exit(0)  # the task has forked, and its child has returned from the function: the answer is the parent's
    return ended


def _send(ended: Ended, answers: socket.socket) -> None:
    try:
        answers.send(pack_frame(ended))
    except OSError:  # EMSGSIZE; or the task has closed the socket, and this fails too
        answers.send(pack_frame(Ended(False, error=f"the answer does not fit into a message: {ended.error[:2000]}")))


def wait_for(runner: int) -> int:
    """In the child: the exit code of the runner when it has ended, negative for signals.

    Collects adopted orphans on the way, so that none stays a zombie.
    """
    while True:
        pid, status = waitpid(-1, 0)
        if pid == runner:
            return waitstatus_to_exitcode(status)
