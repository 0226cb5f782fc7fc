"""Headrace, its peers and the raw limits doing the same work side by side: `python -m benchmarks.peers`, `make bench`.

`systems/` has one module for each system, `work` the bodies of the tasks, `metrics/` what is measured, `rows` the
lines of the table. Each measurement is a process of its own (`measure`): Headrace's runs in this Python, a peer's in a
virtual environment that has the peers alone (`peers_venv`).
"""
