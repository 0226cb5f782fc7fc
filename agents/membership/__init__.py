"""Which boots are alive and which are dead: identity, heartbeats, leases, fencing. Imported by `completion` and all
packages above it.
"""
