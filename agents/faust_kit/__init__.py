"""What both Faust apps share: how they are made, their web ports, and Faust's faults worked around. Imported by all but
`execution` and `monitoring`.
"""
