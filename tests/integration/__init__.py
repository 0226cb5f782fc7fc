"""Parts of the product against a real Kafka and database."""
