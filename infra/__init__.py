"""Everything around the roles: setup, the local stack, the image, faults. Only tests and benchmarks import it."""
