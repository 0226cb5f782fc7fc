"""All tests: `unit/` and `integration/` mirror the packages, `acceptance/` uses the whole product, `faults/` breaks it."""
