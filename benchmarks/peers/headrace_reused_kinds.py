"""The bodies of `work` as Headrace's task kinds whose attempts follow one another in one process, as the peers' do."""

from benchmarks.peers import work
from headrace import task

for function in work.FUNCTIONS.values():
    task(reuse_process=True)(function)
