"""What follows an attempt: its outcome or the next attempt, then the claim's tombstone. Imported by `intake`,
`recovery` and `worker`.
"""
