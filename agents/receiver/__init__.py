"""The receiver agent, which announces each submitted task on `lifecycle.received`. Imported by `worker` alone."""
