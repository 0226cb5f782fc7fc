"""The gateway's requests to Kafka beside the view: is it reachable, where do partitions end, one record at its offset.

Imported by routes and `gateway.main`.
"""
