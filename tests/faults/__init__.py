"""Faults of every part, and what must hold after them."""
