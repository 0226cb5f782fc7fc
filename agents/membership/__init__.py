"""Who lives and who is dead: this node's identity, heartbeats, leases, fencing. Imported by `completion` and all above
it.
"""
