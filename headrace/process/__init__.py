"""What a process of any role needs: health, signals, memory, host checks, failpoints.

Imports only `headrace.errors` and `headrace.settings`. Every other package may import it.
"""
