"""Faults on purpose: workloads, faults and the conservation check, for `headrace chaos` and for `tests/faults`."""
