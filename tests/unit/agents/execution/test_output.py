"""The output of attempts, on its way through the node."""

import tracemalloc
from pathlib import Path

from agents.execution.output import AttemptOutput
from headrace.storage.attempt_log import LOG_BYTES

PIECE = 65_536  # what a pipe holds


def test_the_node_never_holds_much_more_than_it_keeps(tmp_path: Path) -> None:
    output = AttemptOutput(tmp_path / "output")
    tracemalloc.start()
    with output.path.open("wb", buffering=0) as printing:
        for number in range(200):
            printing.write(bytes([number]) * PIECE)
            assert output.read_available()
    taken = output.take_tail()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    output.close()
    assert taken == b"".join(bytes([number]) * PIECE for number in range(200))[-LOG_BYTES:]
    assert most < 12 * LOG_BYTES  # 50 * LOG_BYTES were printed
