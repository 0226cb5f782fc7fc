"""The gateway's own questions to Kafka: whether it can be reached, and a record at its place. Imported by routes and
`gateway.main`.
"""
