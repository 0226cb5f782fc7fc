"""Kafka clients as every role uses them: sending, reading ranges, following topics. Imported by all roles."""
