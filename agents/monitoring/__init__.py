"""A worker node's statistics and its page. Imported by `worker`; imports `execution` alone."""
