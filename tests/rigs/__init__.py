"""What tests stand on: parts put together for them, kinds to run, clients to ask. Imported by tests alone."""
