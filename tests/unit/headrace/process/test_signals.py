"""A signal is handled whatever the main thread does when it arrives."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from headrace.process.signals import on_signals


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.timeout(20)
def test_a_signal_is_handled_after_the_main_thread_released_the_lock_that_the_handler_needs() -> None:
    asked = threading.Event()
    on_signals([signal.SIGUSR1], asked.set)
    with asked._cond:  # as Event.wait() has it for a moment
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not asked._flag
    assert asked.wait(10)


def test_each_signal_is_handled() -> None:
    came, enough = [0], threading.Event()

    def act() -> None:
        came[0] += 1
        if came[0] == 3:
            enough.set()

    on_signals([signal.SIGUSR1], act)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert enough.wait(10)
