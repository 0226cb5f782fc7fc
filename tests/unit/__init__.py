"""Single modules, without Kafka."""
