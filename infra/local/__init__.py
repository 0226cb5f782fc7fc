"""The embedded stack of `headrace up`: Kafka, MariaDB, Spark and supervised roles. For `infra` and tests."""
