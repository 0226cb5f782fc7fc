"""A kind's payload: the JSON Schema that nodes announce, and the Python values that the function gets.

Imported by `headrace.kinds` in the processes that load task modules.
"""
