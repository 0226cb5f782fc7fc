"""The process pool: slots, children, attempts, limits and what is left behind. Imports no other package of `agents`;
all may import it.
"""
