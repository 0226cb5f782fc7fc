"""The offsets in the query's checkpoint, moved over batches of records that Spark's Kafka client cannot decode.

Called while no query runs: by `job` after one has failed, and by `lost_offsets`. Such a batch would end every further
run at the same place. Retryable or KafkaException when Kafka does not answer. Source of the files' form: Spark's
`OffsetSeqLog`, a line of version, one of metadata, and the source's offsets as JSON, with a checksum beside each file.
"""

import json
import re
from pathlib import Path

from headrace.contract.records import Place
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.damaged_batches import DamagedBatch
from headrace.kafka.reading import read_batches

_NAMED = re.compile(r"(?:from|partition) ([\w.-]+)-(\d+)\b")  # as Java's client names the partition that it cannot read

Offsets = dict[str, dict[str, int]]  # topic with its prefix -> partition -> offset


def pass_over_damage(kafka: Kafka, checkpoint: Path, failure: str) -> list[str]:
    """Moves the planned batch's offsets where `failure` says that Spark cannot read; returns what it did, in sentences.

    What lies before the damage is counted first: the planned batch then ends there, and a later call moves its start.
    """
    planned = max((int(p.name) for p in (checkpoint / "offsets").glob("*") if p.name.isdigit()), default=None)
    if planned is None or (checkpoint / "commits" / str(planned)).exists():
        return []  # the query has failed between two batches
    end_file = checkpoint / "offsets" / str(planned)
    start_file = _start_file(checkpoint, planned)
    starts, ends = _read_offsets(start_file), _read_offsets(end_file)
    moved = []
    for topic, partition in _named_places(failure, ends):
        place = kafka.unprefixed(topic), int(partition)
        damaged = _find_damage(kafka, place, starts[topic][partition], ends[topic][partition])
        if not damaged:
            continue
        if damaged[0].offset > starts[topic][partition]:
            ends[topic][partition] = damaged[0].offset
            moved.append(
                f"the statistics count {place[0]}/{place[1]} up to the damage at offset {damaged[0].offset} first"
            )
        else:
            starts[topic][partition] = damaged[0].next_offset
            ends[topic][partition] = max(ends[topic][partition], damaged[0].next_offset)
            moved.append(f"the statistics lack what was in it. {damaged[0]}")
    if moved:
        _write_offsets(end_file, ends)
        _write_offsets(start_file, starts)
    return moved


def next_offsets(checkpoint: Path) -> Offsets | None:
    """Where the next batch begins to read; None without a checkpoint, or before its first offsets.

    OSError or ValueError for a checkpoint that cannot be read, which ends the query as well.
    """
    planned = max((int(p.name) for p in (checkpoint / "offsets").glob("*") if p.name.isdigit()), default=None)
    if planned is None:
        file = checkpoint / "sources" / "0" / "0"
        return _read_offsets(file) if file.exists() else None
    if (checkpoint / "commits" / str(planned)).exists():
        return _read_offsets(checkpoint / "offsets" / str(planned))
    return _read_offsets(_start_file(checkpoint, planned))


def _start_file(checkpoint: Path, planned: int) -> Path:
    """The file with the offsets at which that batch begins."""
    before = checkpoint / "offsets" / str(planned - 1)
    return before if before.exists() else checkpoint / "sources" / "0" / "0"


def _named_places(failure: str, ends: Offsets) -> list[tuple[str, str]]:
    """Those that the failure names, or all."""
    named = [(t, p) for t, p in dict.fromkeys(_NAMED.findall(failure)) if p in ends.get(t, {})]
    return named or [(t, p) for t, partitions in ends.items() for p in partitions]


def _find_damage(kafka: Kafka, place: Place, begin: int, end: int) -> list[DamagedBatch]:
    """In order. Reading passes them over and takes note of them."""
    consumer = kafka.consumer(None, **SHORT_FETCH)
    try:
        for _ in read_batches(kafka, consumer, {place: (begin, end)}):
            pass
    finally:
        consumer.close()
    return kafka.damaged_batches.within(place, begin, end)


def _read_offsets(file: Path) -> Offsets:
    found: Offsets = json.loads(file.read_text().splitlines()[-1])
    return found


def _write_offsets(file: Path, offsets: Offsets) -> None:
    lines = file.read_text().splitlines()
    lines[-1] = json.dumps(offsets, separators=(",", ":"))
    file.with_name(f".{file.name}.crc").unlink(missing_ok=True)  # of the old content; without one, nothing is checked
    changed = file.with_name(f".{file.name}.changed")
    changed.write_text("\n".join(lines))
    changed.replace(file)
