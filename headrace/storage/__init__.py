"""Files on disk and the database, as far as more than one role uses them. Imported by all roles."""
