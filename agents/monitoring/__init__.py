"""A worker node's statistics, counters and stats page. Imports no other package of `agents` but `execution`."""
