"""From the task topics to a committed claim: what is pulled, refused, dropped as a repeat, put in order and handed
over. Imported by `worker` and `recovery`.
"""
