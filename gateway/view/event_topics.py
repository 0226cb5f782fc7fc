"""The topics whose records are events for listeners. A constant of the status view's parts."""

# In the order of the events of one task. The index in this tuple is stored, and is part of event ids.
EVENT_TOPICS = ("lifecycle.received", "lifecycle.started", "progress", "lifecycle.completed", "tasks.dead")
