"""What follows the end of an attempt: outcome, next attempt, tombstone. Imported by `intake`, `recovery` and `worker`."""
