"""One child process of the pool, and the node's end of the link to it.

Made by `agents.execution.slot` in a thread (forking takes milliseconds); forks a runner for one attempt at a time, at
the request of `agents.execution.attempt` in the event loop. The node learns at once that a runner or its child has
ended; without an answer the attempt fails with RunnerDied. An answer that was sent before the death still counts.
"""

import asyncio
import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable

from headrace.child.context import context
from headrace.child.main import serve
from headrace.child.process_tree import kill_trees, parent_of, start_time
from headrace.child.protocol import (
    Begun,
    BrokenLink,
    DescribeKinds,
    Ended,
    FrameReader,
    Gone,
    Request,
    pack_frame,
    unpack_answer,
)
from headrace.child.zygote import Setup
from headrace.contract.printable import printable
from headrace.process.throttled_log import log_throttled

_READ_BYTES = 256 * 1024
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of a sender
_CONTROL_BYTES = socket.CMSG_SPACE(_CREDENTIALS.size)
_LAST_READS = 64  # of what a dead child and its runner have sent; bounded, should another process hold the link
_JOIN_S = 5.0  # for a killed process to end


class RunnerDied(Exception):
    """Of the runner, or of the child with it: `exit_code`, negative for signals, None when it is unknown.

    `reason` says what was wrong with its answer, if that was the cause.
    """

    def __init__(self, exit_code: int | None, reason: str = "") -> None:
        super().__init__(reason or f"exit code {exit_code}")
        self.exit_code, self.reason = exit_code, reason


class Child:
    """The process runs when the constructor returns; OSError when it cannot be started.

    `on_death` is called once, in the event loop, after the running attempt has failed.
    """

    def __init__(self, setup: Setup, on_death: Callable[[], None]) -> None:
        self._link, theirs = socket.socketpair()
        if sys.platform == "linux":
            self._link.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._process = context.Process(target=serve, args=(setup, theirs))
        try:
            self._process.start()
        except BaseException:
            self._link.close()
            raise
        finally:
            theirs.close()
        self._link.setblocking(False)
        self._on_death = on_death
        self._reader = FrameReader()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._request: Request | None = None
        self._on_begun: Callable[[Begun], None] = lambda _: None
        self._runner = 0  # pid, from its Begun to its Gone
        self._started = dict[int, int]()  # start times of the child and of its newest runner, by pid
        self.took_s = 0.0  # seconds of the newest ended attempt, by the child's own clock
        self._last_words: Gone | None = None  # of a child that ran the attempt itself and is about to end
        self._answer: asyncio.Future[Ended] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._protocol_error = ""
        self._has_ended = False
        self.pid = self._process.pid or 0
        self._started[self.pid] = start_time(self.pid)
        self.death = asyncio.Event()

    @property
    def is_dead(self) -> bool:
        """Whether its death has been seen and reported."""
        return self.death.is_set()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the child belongs to the event loop."""
        self._loop = loop
        loop.add_reader(self._link.fileno(), self._read_link)
        loop.add_reader(self._process.sentinel, self._on_exit)

    def run_attempt(self, request: Request, on_begun: Callable[[Begun], None]) -> "asyncio.Future[Ended]":
        """Sends the request. `on_begun` is called when a runner starts it.

        The future is done when the runner and all that it started have ended, or when the child has died. It fails with
        RunnerDied, or with OSError when no runner could be started.
        """
        assert self._loop is not None
        self._request, self._on_begun = request, on_begun
        self._answer = answer = self._loop.create_future()
        answer.add_done_callback(lambda f: f.cancelled() or f.exception())  # its attempt may be over
        if self.is_dead:
            answer.set_exception(RunnerDied(self._exit_code()))
        else:
            self._send(pack_frame(request))
        return answer

    def kill_runner(self) -> bool:
        """Kills the running attempt's runner, whose end follows; False when there is none."""
        # Its pid can have been given to another process only after the child has collected its exit code.
        if not self._runner or (parent_of(self._runner) != self.pid and self._runner != self.pid):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._runner, signal.SIGKILL)
        return True

    def own_pids(self) -> set[int]:
        """Pids of the child and of its newest runner, for `kill_trees`; from any thread.

        A pid that another process has by now is left out. One that no process has may still lead a session.
        """
        return {pid for pid, started in list(self._started.items()) if start_time(pid) in (0, started)}

    def kill_tree(self) -> None:
        """Kills the child, its newest runner and all that descends from them; call it from a thread."""
        kill_trees(self.own_pids())

    def describe_kinds(self, timeout_s: float) -> bytes:
        """The answer to DescribeKinds; before `attach`. RunnerDied, or TimeoutError after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(OSError):  # it has ended already: its sentinel says so
            self._link.send(pack_frame(DescribeKinds()))
        watched = [self._process.sentinel, self._link.fileno()]
        while (left_s := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select(watched, [], [], left_s)
            if self._link.fileno() in ready:
                try:
                    data = self._link.recv(_READ_BYTES)
                    for frame in self._reader.feed(data):
                        if isinstance(frame, DescribeKinds):
                            return frame.described
                except (BrokenLink, OSError):
                    data = b""
                if not data:  # the link has ended: wait for the process to end
                    watched = [self._process.sentinel]
            if self._process.sentinel in ready:
                raise RunnerDied(self._exit_code())
        raise TimeoutError

    def detach(self) -> None:
        """Leaves the event loop."""
        if self._loop is not None:
            self._loop.remove_reader(self._link.fileno())
            self._loop.remove_reader(self._process.sentinel)
            self._loop = None

    def end(self) -> None:
        """Kills it and its descendants; call it from a thread, after `detach` or the child's death."""
        if self._has_ended:
            return
        self._has_ended = True
        self.kill_tree()
        self._process.join(_JOIN_S)
        self._link.close()
        with contextlib.suppress(ValueError):  # it still lives, in an uninterruptible system call
            self._process.close()

    def _send(self, data: bytes) -> None:
        assert self._loop is not None
        try:
            data = data[self._link.send(data) :]
        except BlockingIOError:
            pass
        except OSError:
            return  # the child is dying: its exit is reported soon
        if data:
            self._sending = self._loop.create_task(self._send_rest(data))

    async def _send_rest(self, data: bytes) -> None:
        assert self._loop is not None
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._link, data)

    def _read_link(self) -> bool:
        """Handles what one process has sent; False when nothing is there."""
        try:
            data, extra, _flags, _address = self._link.recvmsg(_READ_BYTES, _CONTROL_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data, extra = b"", []
        if not data:
            if self._loop is not None:  # the child closed it: its death or the time limit follows
                self._loop.remove_reader(self._link.fileno())
            return False
        sender = _CREDENTIALS.unpack(extra[0][2])[0] if extra else 0
        try:
            for frame in self._reader.feed(data):
                self._handle_frame(frame, sender)
        except BrokenLink as e:
            self._protocol_error = f"the node killed the process because it sent an invalid answer: {e}"
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return True

    def _handle_frame(self, frame: object, sender: int) -> None:
        """`sender`: the pid that the kernel has added; 0 where it does not."""
        request = self._request
        if request is None or not isinstance(frame, Begun | Gone):
            return
        if (frame.id, frame.attempt) != (request.id, request.attempt):
            return
        if isinstance(frame, Begun):
            if not self._may_name(sender, frame.pid):
                raise BrokenLink(f"process {sender} says that it is process {frame.pid}")
            if not self._runner:  # a second one would begin the time limit anew
                self._runner = frame.pid
                if frame.pid != self.pid:
                    self._started = {self.pid: self._started[self.pid], frame.pid: start_time(frame.pid)}
                self._on_begun(frame)
        elif self._runner == self.pid:
            self._last_words = frame  # it ran the attempt itself: its threads live on until it has ended
        else:
            self._runner = 0
            if frame.left_behind:
                text = "Kind %s: its process cannot be reused, because an attempt has changed its %s"
                log_throttled(f"reuse of {request.name}", text, request.name, printable(frame.left_behind, 500))
            self._settle(frame)

    def _may_name(self, sender: int, runner: int) -> bool:
        """Whether that sender's Begun may name that runner: itself, or the child one that it keeps.

        Else a task could name any process, and the node would kill it.
        """
        return sender in (0, runner) or (sender == self.pid and parent_of(runner) == self.pid)

    def _on_exit(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._process.sentinel)
            for _ in range(_LAST_READS):
                if not self._read_link():
                    break
            self._loop.remove_reader(self._link.fileno())
            self._loop = None
        self.death.set()
        self._settle(self._last_words)
        self._on_death()

    def _settle(self, gone: Gone | None) -> None:
        """The running attempt has ended: so, or with the child's death."""
        if self._answer is None or self._answer.done():
            return
        if gone is None:
            self._answer.set_exception(RunnerDied(self._exit_code(), self._protocol_error))
        elif gone.fork_error:
            self._answer.set_exception(OSError(f"no process could be started for the attempt: {gone.fork_error}"))
        elif gone.answer is None:
            self._answer.set_exception(RunnerDied(gone.exit_code))
        else:
            self.took_s = max(0.0, gone.took_s)
            try:
                self._answer.set_result(unpack_answer(gone.answer))
            except BrokenLink as e:
                self._answer.set_exception(RunnerDied(gone.exit_code, f"the process sent an invalid answer: {e}"))

    def _exit_code(self) -> int | None:
        """None when the forkserver has died too: only it learns the code."""
        self._process.join(0)
        code = self._process.exitcode
        return None if code == 255 else code  # 255: multiprocessing could not read it from the forkserver
