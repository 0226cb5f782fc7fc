"""What runs in a pool's child process, and its link to the node. Imported by `agents.execution`; imports no Kafka
client.
"""
