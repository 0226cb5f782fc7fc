"""Test rigs: fixtures, parts assembled for tests, task kinds, clients. Only tests import them."""
