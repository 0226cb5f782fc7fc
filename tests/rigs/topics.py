"""The topics of tests: enough partitions for two members of a group to share, and no more, as each costs the broker."""

PARTITIONS = 2
