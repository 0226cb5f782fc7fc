"""The cancellations that a node keeps in its file: what it must not trust after a start."""

import uuid

from agents.intake.cancellations import Cancellations
from headrace.contract.cluster import Cancel
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from tests.rigs.topics import PARTITIONS


def test_a_control_log_that_was_recreated_is_read_before_it_counts_as_read(
    kafka_settings: Settings, sender: Sender, topics: str
) -> None:
    """Its topic was deleted and created again: the stored position is far beyond the new log's end."""
    kafka, file, task_id = Kafka(kafka_settings, "test"), kafka_settings.data / "control.db", str(uuid.uuid4())
    before = Cancellations(kafka, file)
    before.start_positions({})
    before.save_positions({("tasks.control", p): 1000 for p in range(PARTITIONS)})
    before._db.close()
    sender.send_all([Cancel(task_id).encode()])
    cancellations = Cancellations(kafka, file)
    cancellations.start()
    try:
        assert cancellations.wait_caught_up(60)
        assert cancellations.is_cancelled(task_id)
    finally:
        cancellations.close()
