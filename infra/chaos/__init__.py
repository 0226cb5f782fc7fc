"""Faults on purpose: workloads, faults and the conservation check. Imported by `headrace chaos` and `tests/faults`."""
