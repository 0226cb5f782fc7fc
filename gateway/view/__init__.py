"""The status view: the lifecycle topics folded into SQLite, and the event streams made from it. Imports no routes."""
