"""The audit: it checks received = completed + dead + running + queued from the log. Only `main` imports it."""
