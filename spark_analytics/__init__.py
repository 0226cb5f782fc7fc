"""The statistics: one Spark Structured Streaming query over the lifecycle topics, its sinks, and the audit.

Nobody imports it but `infra`.
"""
