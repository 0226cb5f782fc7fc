"""The topics of tests: enough partitions for two members of a group to share; more would slow down the broker."""

PARTITIONS = 2
