"""`headrace why`: the history of one task, read from Kafka. Imported by the command line only."""
