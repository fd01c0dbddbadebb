"""Verification that stored records are those that were signed, and secrets sealed to a node. No I/O."""
