"""What follows an attempt: outcome, next attempt, tombstone. Imported by `intake`, `recovery` and `worker`."""
