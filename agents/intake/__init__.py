"""From the task topics to a committed claim: pull, refuse, drop repeats, order, claim, commit, hand over. Imported by
`worker`, `receiver` and `recovery`.
"""
