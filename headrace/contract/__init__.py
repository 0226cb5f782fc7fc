"""The public contract as code: what lies in each topic, how ids and directories are made, what states there are.
Imports `headrace.errors` alone; all may import it.
"""
