"""What the two Faust apps share: how they are made, their web ports, workarounds for Faust's faults. Imported by every
package except `execution` and `monitoring`.
"""
