"""Which partitions have attention, since when, and until when."""

import threading
from collections.abc import Callable

import pytest

from gateway.view.attention import CLOSE_S, Attention
from headrace.contract.records import Place
from tests.rigs.clock import Clock

A: Place = ("progress", 0)
B: Place = ("progress", 1)
EVER = float("inf")


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def attention(clock: Clock) -> Attention:
    return Attention(clock)


def test_a_place_has_attention_until_its_last_holder_has_left(attention: Attention) -> None:
    with attention.on([A]):
        with attention.on([A, B]):
            assert attention.places(0, EVER) == {A, B}
        assert attention.places(0, EVER) == {A}
    assert attention.places(0, EVER) == set()


def test_places_are_told_apart_by_how_long_they_have_had_attention(attention: Attention, clock: Clock) -> None:
    with attention.on([A]):
        clock.now += 1.5
        with attention.on([A, B]):
            assert attention.places(0, 2) == {A, B}
            assert attention.places(1, EVER) == {A}
            clock.now += 1
            assert attention.places(0, 2) == {B}
    with attention.on([A]):
        assert attention.places(1, EVER) == set(), "it begins anew"


def test_a_request_keeps_a_place_for_some_time(attention: Attention, clock: Clock) -> None:
    attention.keep([A], 3)
    assert not attention.is_close([A]), "the readers may not be there yet"
    clock.now += 2 * CLOSE_S
    assert attention.is_close([A])
    assert not attention.is_close([A, B])
    attention.keep([A, B], 3)
    clock.now += 2.9
    assert attention.places(0, EVER) == {A, B}
    clock.now += 0.2
    assert attention.places(0, EVER) == set()
    assert not attention.is_close([A])


@pytest.mark.parametrize("end", [lambda a: a.keep([A], 60), Attention.wake])
def test_waiting_ends_with_new_attention_and_when_the_reader_is_to_stop(
    attention: Attention, end: Callable[[Attention], object]
) -> None:
    asked = threading.Event()
    waits = threading.Thread(target=lambda: attention.wait(lambda: asked.set() is not None, 60))
    waits.start()
    assert asked.wait(10)
    end(attention)
    waits.join(10)
    assert not waits.is_alive()
    attention.wait(lambda: True, 60)
