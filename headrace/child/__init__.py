"""What runs in a pool's child process, and the link to its node. Imported by `agents.execution`; imports nothing of
Kafka.
"""
