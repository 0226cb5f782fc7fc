"""The public contract as code: the records of every topic, the rules for ids and directories, the states of a task.

Imports only `headrace.errors`. Every other package may import it.
"""
