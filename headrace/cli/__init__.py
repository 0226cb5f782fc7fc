"""The command line: one module a family of commands, each imported only when it is used. Nobody imports it."""
