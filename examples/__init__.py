"""The task kinds that ship with Headrace; they do real work. Loaded like users' kinds, never imported."""
