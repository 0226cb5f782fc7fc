"""The process pool: slots, child processes, attempts, their limits and the clean-up. Imports no other package of
`agents`; all others may import it.
"""
