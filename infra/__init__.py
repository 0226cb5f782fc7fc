"""Everything around the roles: the local stack, images, chaos. Nobody imports it but tests and benchmarks."""
