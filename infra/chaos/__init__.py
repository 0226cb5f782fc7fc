"""Fault injection: workloads, faults and the conservation check. `headrace chaos` and `tests/faults` import it."""
