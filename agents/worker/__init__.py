"""A worker node: its parts, its process, how it starts and drains. Nothing else in `agents` may import it."""
