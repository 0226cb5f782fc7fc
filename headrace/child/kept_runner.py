"""A runner that stays for further attempts of kinds with `reuse_process`: what a fork costs is paid once for many.

Called by `headrace.child.main`. A slot's child keeps at most one, and ends it before an attempt of any other kind: what
authors of reusable kinds do in their processes reaches nobody else. After each attempt the runner compares its state
with the one before (`headrace.child.clean_state`). A runner that has changed, that a failed attempt has used, or that
has run `MAX_ATTEMPTS` ends, and the next attempt gets a new one. docs/design/0017 says which guarantee holds for whom.
"""

import contextlib
import os
import random
import select
import signal
import socket
from collections.abc import Collection
from functools import partial
from os import _exit, getpid, kill, setsid  # bound as process_tree says; not fork
from typing import NoReturn

from headrace.child.attempt import run_attempt, variables_of_attempts
from headrace.child.clean_state import State, differences, observe
from headrace.child.leftovers import kill_leftovers
from headrace.child.main_process import forget_short_name
from headrace.child.process_tree import adopt_orphans, die_with
from headrace.child.protocol import Begun, FrameReader, Gone, Request, pack_frame
from headrace.child.random_numbers import needs_reseed, reseed
from headrace.child.runner import MAX_ANSWER_BYTES, wait_for
from headrace.child.zygote import Zygote, load_kinds_once

MAX_ATTEMPTS = 1000  # of one runner: bounds what a function that leaks memory takes
_MAX_REQUEST_BYTES = 64 * 1024  # a larger one gets a process of its own: a fork costs little beside it
_STAYS, _ENDS = b"+", b"-"  # the first byte of an answer; after _ENDS come a NUL-terminated reason and the Ended


class KeptRunner:
    """In the slot's child: the runner that is kept, if there is one."""

    def __init__(self, zygote: Zygote, link: socket.socket) -> None:
        self._zygote, self._link = zygote, link
        self._pid, self._pid_descriptor = 0, -1
        self._socket: socket.socket | None = None

    def takes(self, request: Request) -> bool:
        """Whether the request's kind reuses processes, and this request can be passed to one."""
        if self._zygote.threads or not hasattr(os, "pidfd_open") or len(request.payload) > _MAX_REQUEST_BYTES:
            return False
        with contextlib.suppress(BaseException):  # kinds that cannot be loaded: the attempt says so
            kind = load_kinds_once().get(request.name)
            return kind is not None and kind.reuse_process
        return False

    def run(self, request: Request) -> Gone:
        """Runs the attempt in the kept runner, or in a new one; returns when the attempt is over."""
        if self._has_died():
            self.end()
        if not self._pid:
            try:
                self._fork()
            except OSError as e:
                return Gone(request.id, request.attempt, fork_error=f"{type(e).__name__}: {e}")
        self._link.sendall(pack_frame(Begun(request.id, request.attempt, self._pid, self._zygote.memory)))
        answer = self._ask(pack_frame(request))
        if answer[:1] == _STAYS:
            return Gone(request.id, request.attempt, 0, answer[1:])
        exit_code = self._collect()
        left, _, ended = answer[1:].partition(b"\0")
        return Gone(request.id, request.attempt, exit_code, ended or None, left_behind=left.decode(errors="replace"))

    def end(self) -> None:
        """Ends the kept runner and all that it has started; does nothing when there is none."""
        if self._pid:
            kill(self._pid, signal.SIGKILL)  # not collected yet, so this is still its pid
            self._collect()

    def _fork(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            child = getpid()
            try:
                pid = os.fork()
                if pid == 0:
                    ours.close()
                    _serve(self._zygote, self._link, theirs, child)
                self._pid, self._pid_descriptor = pid, os.pidfd_open(pid)
            except OSError:
                ours.close()
                raise
        self._socket = ours

    def _has_died(self) -> bool:
        return bool(self._pid and select.select([self._pid_descriptor], [], [], 0)[0])

    def _ask(self, request: bytes) -> bytes:
        """The runner's answer; empty when it has died without one."""
        assert self._socket is not None
        with contextlib.suppress(OSError):  # it died a moment ago
            self._socket.send(request)
            select.select([self._socket.fileno(), self._pid_descriptor], [], [])
            return self._socket.recv(MAX_ANSWER_BYTES, socket.MSG_DONTWAIT)
        return b""

    def _collect(self) -> int:
        """Waits for the runner's end and ends what it leaves; its exit code, negative for signals."""
        exit_code = wait_for(self._pid)
        if self._socket is not None:
            self._socket.close()
        os.close(self._pid_descriptor)
        self._pid, self._pid_descriptor, self._socket = 0, -1, None
        kill_leftovers(spare=self._zygote.helpers)
        return exit_code


def _serve(zygote: Zygote, link: socket.socket, requests: socket.socket, child: int) -> NoReturn:
    """In the runner: one attempt after another, as long as each leaves the process as it was."""
    exit_code = 1
    try:
        setsid()
        die_with(child)
        link.close()
        adopt_orphans()  # so that whatever an attempt has started is found below this process
        for prepare in zygote.after_fork:
            prepare()
        if zygote.on_child_end is not signal.SIG_DFL:
            signal.signal(signal.SIGCHLD, zygote.on_child_end)
        _run_attempts(zygote, requests)
        exit_code = 0
    finally:
        _exit(exit_code)


def _run_attempts(zygote: Zygote, requests: socket.socket) -> None:
    runner, blocked = getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    set_anew = variables_of_attempts(zygote.setup)
    before = observe(set_anew)
    for number in range(1, MAX_ATTEMPTS + 1):
        data = requests.recv(2 * _MAX_REQUEST_BYTES)
        if not data:
            return  # the child has gone
        [request] = FrameReader().feed(data)
        assert isinstance(request, Request)
        if number > 1:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)  # an attempt blocks signals when its function returns
            random.seed()
            if needs_reseed():
                reseed()
        states: list[State] = []
        ended = run_attempt(request, zygote.setup, partial(_observe, states, set_anew))
        if getpid() != runner:
            _exit(0)  # the task has forked, and its child has returned from the function: the answer is the parent's
        left = ", ".join(differences(before, states[0])) if states else ""
        if left or not ended.ok or number == MAX_ATTEMPTS:
            requests.send(_ENDS + left.encode() + b"\0" + pack_frame(ended))
            return
        requests.send(_STAYS + pack_frame(ended))


def _observe(states: list[State], set_anew: Collection[str]) -> None:
    forget_short_name()
    states.append(observe(set_anew))
