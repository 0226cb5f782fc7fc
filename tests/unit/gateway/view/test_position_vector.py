"""The ids of events on the stream of all tasks: they decode to the same positions, and stay short."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.view import position_vector
from gateway.view.event_topics import EVENT_TOPICS
from headrace.kafka.partitioner import partition_of

offsets = st.integers(0, 2**62)


@given(
    st.integers(1, 32).flatmap(
        lambda n: st.lists(offsets, min_size=n * len(EVENT_TOPICS), max_size=n * len(EVENT_TOPICS))
    )
)
def test_decode_is_the_inverse_of_encode(numbers: list[int]) -> None:
    partitions = len(numbers) // len(EVENT_TOPICS)
    positions = {(i // partitions, i % partitions): n for i, n in enumerate(numbers)}
    assert position_vector.decode(position_vector.encode(positions)) == positions


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_other_text_is_a_value_error(text: str) -> None:
    try:
        found = position_vector.decode(text)
    except ValueError:
        return
    assert position_vector.decode(position_vector.encode(found)) == found


def test_an_id_stays_below_two_kibibytes() -> None:
    full = {(t, p): 10**9 for t in range(len(EVENT_TOPICS)) for p in range(16)}
    assert len(position_vector.encode(full)) < 600
    more = {(t, p): 10**9 for t in range(len(EVENT_TOPICS)) for p in range(60)}
    assert len(position_vector.encode(more)) < 2048


@pytest.mark.parametrize(
    ("key", "murmur"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"", 275646681)],
)
def test_ids_go_to_the_partition_that_javas_client_chooses(key: bytes, murmur: int) -> None:
    # The hashes are Apache Kafka's own test values of its murmur2.
    assert partition_of(key, 16) == (murmur & 0x7FFFFFFF) % 16
    assert partition_of(key, 1009) == (murmur & 0x7FFFFFFF) % 1009
