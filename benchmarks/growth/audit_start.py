"""`python -m benchmarks.growth.audit_start FOLDER`: the audit reads on to the ends of its topics, without a database.

The settings come from the environment, as for a role. This is what an audit does before it judges anything.
"""

import sys
from pathlib import Path

from headrace.kafka.client import Kafka
from headrace.settings import Settings
from spark_analytics.audit.log_reader import AuditLog
from spark_analytics.audit.projection import TOPICS, AuditProjection


def main() -> None:
    projection = AuditProjection(Path(sys.argv[1]) / "audit.sqlite")
    reader = AuditLog(Kafka(Settings.load(), "growth-audit"))
    projection.adopt(reader.installation())
    places = reader.places(TOPICS)
    begins = reader.starts(places) | projection.next_offsets()
    reader.read(begins, reader.ends(places), projection.add_records)
    reader.close()
    projection.close()


if __name__ == "__main__":
    main()
