"""The embedded stack that `headrace up` runs: Kafka, MariaDB, Spark and the supervised roles. Imported by `infra` and
tests.
"""
