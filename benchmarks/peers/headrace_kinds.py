"""The bodies of `work` as Headrace's task kinds: each attempt in a process of its own, as is the default."""

from benchmarks.peers import work
from headrace import task

for function in work.FUNCTIONS.values():
    task(function)
