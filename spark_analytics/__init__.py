"""The statistics: one Spark Structured Streaming query over the lifecycle topics, its sinks, and the audit.

Only `infra`, tests and benchmarks import it.
"""
