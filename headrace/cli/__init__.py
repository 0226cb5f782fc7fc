"""The command line: one module a family of commands. Commands are imported when they are used.

Imports none of the roles: it finds them by entry points. No other package imports it.
"""
