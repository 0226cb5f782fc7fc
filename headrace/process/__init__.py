"""What a process of any role needs: health, signals, memory, host checks, failpoints. Imports no other part of
`headrace` but settings and errors.
"""
