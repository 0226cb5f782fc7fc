"""The names of the consumer groups, without the installation's prefix; `topics.yaml` says who may join or watch each.

A role that joins a group and a role that only looks at its offsets both take the name from here.
"""

INTAKE_GROUP = "headrace-tasks"  # its generations fence claims
RECEIVER_GROUP = "headrace-receiver"
REAPER_GROUP = "headrace-reaper"
STOREKEEPER_GROUP = "headrace-storekeeper"
ANALYTICS_GROUP_PREFIX = "headrace-analytics"  # Spark's: it adds a name of its own for each query
NO_GROUP = "headrace-no-group"  # librdkafka wants a name, also from a consumer that keeps its own positions
