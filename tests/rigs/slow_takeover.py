"""`python -m tests.rigs.slow_takeover FILE`: a storekeeper whose reading of partition 0's outputs waits for FILE.

Everything else is the real role, with its settings from the environment. FILE.began exists once the reading waits.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Message

from agents.storekeeper import index_catchup, main
from headrace.kafka.reading import read_batches
from headrace.settings import Settings


def _waiting(file: Path) -> Any:
    def read(*args: Any, **options: Any) -> Iterator[list[Message]]:
        for batch in read_batches(*args, **options):
            if any(m.partition() == 0 for m in batch):
                file.with_suffix(".began").touch()
                while not file.exists():
                    time.sleep(0.02)
            yield batch

    return read


if __name__ == "__main__":
    index_catchup.read_batches = _waiting(Path(sys.argv[1]))
    sys.exit(main.run(Settings.load()))
