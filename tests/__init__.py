"""All tests: `unit/`, `integration/` mirror the packages, `acceptance/` is the whole product, `faults/` breaks it."""
