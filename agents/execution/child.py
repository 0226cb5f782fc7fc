"""One child process of the pool, and the node's end of the link to it.

Made by `agents.execution.slot` in a thread (forking takes milliseconds); asked in the event loop, one attempt at a
time. Its death is seen at once, and fails what was asked with ChildDied; an answer that was sent before it still
counts.
"""

import asyncio
import contextlib
import os
import select
import socket
import time
from collections.abc import Callable

from headrace.child.attempt import Setup
from headrace.child.context import context
from headrace.child.main import serve
from headrace.child.process_tree import kill_trees
from headrace.child.protocol import Begun, BrokenLink, DescribeKinds, Ended, FrameReader, Request, pack_frame

_READ_BYTES = 256 * 1024
_END_S = 5.0


class ChildDied(Exception):
    """`exit_code` as multiprocessing gives it, negative for signals; None when it is not known.

    `words` says what the child sent, when it was ended for that.
    """

    def __init__(self, exit_code: int | None, words: str = "") -> None:
        super().__init__(words or f"exit code {exit_code}")
        self.exit_code, self.words = exit_code, words


class Child:
    """`on_death` is called in the event loop, once, after what was asked has failed."""

    def __init__(self, setup: Setup, on_death: Callable[[], None]) -> None:
        self._link, theirs = socket.socketpair()
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
        self._begun: Callable[[], None] = lambda: None
        self._answer: asyncio.Future[Ended] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._nonsense = ""
        self._has_ended = False
        self.pid = self._process.pid or 0
        self.death = asyncio.Event()

    @property
    def is_dead(self) -> bool:
        """Whether its death has been seen, and all told that were to be."""
        return self.death.is_set()

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on it belongs to the event loop."""
        self._loop = loop
        loop.add_reader(self._link.fileno(), self._hear)
        loop.add_reader(self._process.sentinel, self._died)

    def ask(self, request: Request, begun: Callable[[], None]) -> "asyncio.Future[Ended]":
        """Has the child run it; `begun` is called as it does. Fails with ChildDied."""
        assert self._loop is not None
        self._request, self._begun = request, begun
        self._answer = answer = self._loop.create_future()
        answer.add_done_callback(lambda f: f.cancelled() or f.exception())  # may come when nobody asks any more
        if self.is_dead:
            answer.set_exception(ChildDied(self._exit_code()))
        else:
            self._send(pack_frame(request))
        return answer

    def kinds(self, timeout_s: float) -> bytes:
        """Asks for the kinds that it has loaded; before `listen`. ChildDied, or TimeoutError."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(OSError):  # it has ended already: its sentinel tells
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
                if not data:  # nothing more will come of it, but its end
                    watched = [self._process.sentinel]
            if self._process.sentinel in ready:
                raise ChildDied(self._exit_code())
        raise TimeoutError

    def unlisten(self) -> None:
        """Leaves the event loop."""
        if self._loop is not None:
            self._loop.remove_reader(self._link.fileno())
            self._loop.remove_reader(self._process.sentinel)
            self._loop = None

    def end(self) -> None:
        """Ends it and all below it; from a thread, after `unlisten` or its death."""
        if self._has_ended:
            return
        self._has_ended = True
        kill_trees([self.pid])
        self._process.join(_END_S)
        self._link.close()
        with contextlib.suppress(ValueError):  # it lives on, in spite of all: an uninterruptible system call
            self._process.close()

    def _send(self, data: bytes) -> None:
        assert self._loop is not None
        try:
            data = data[self._link.send(data) :]
        except BlockingIOError:
            pass
        except OSError:
            return  # it is dying, which is told soon
        if data:
            self._sending = self._loop.create_task(self._send_rest(data))

    async def _send_rest(self, data: bytes) -> None:
        assert self._loop is not None
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._link, data)

    def _hear(self) -> None:
        try:
            data = self._link.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if self._loop is not None:  # closed by the child, whose death or time limit follows
                self._loop.remove_reader(self._link.fileno())
            return
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except BrokenLink as e:
            self._nonsense = f"the process was ended, since it sent what is no answer: {e}"
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)

    def _take(self, frame: object) -> None:
        asked = self._request
        if isinstance(frame, Begun) and asked is not None and (frame.id, frame.attempt) == (asked.id, asked.attempt):
            self._begun()
        elif isinstance(frame, Ended) and self._answer is not None and not self._answer.done():
            self._answer.set_result(frame)

    def _died(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._process.sentinel)
            self._hear()
            self._loop.remove_reader(self._link.fileno())
            self._loop = None
        self.death.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ChildDied(self._exit_code(), self._nonsense))
        self._on_death()

    def _exit_code(self) -> int | None:
        """None when the forkserver has died, which alone could tell."""
        self._process.join(0)
        code = self._process.exitcode
        return None if code == 255 else code
