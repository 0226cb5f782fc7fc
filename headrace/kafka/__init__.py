"""Kafka clients as every role uses them: settings, sending, reading stretches, following topics. Imported by all roles."""
