"""A worker node put together and run as a process; nothing else in `agents` may import it."""
