"""The storekeeper role: the terminal arbiter and the result files. Imports no other role's package; nothing in `agents`
imports it.
"""
