"""`headrace why`: a task's whole story, found in the log and told. Imported by the command line alone."""
