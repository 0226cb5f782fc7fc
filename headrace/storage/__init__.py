"""What lies on disk or in a database and more than one role uses. Imported by all roles."""
