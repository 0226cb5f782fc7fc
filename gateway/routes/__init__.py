"""The HTTP routes, a module for each group of them. Imported by `gateway.app` alone."""
