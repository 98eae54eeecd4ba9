"""The user's graph: its node sets and edge sets, and the role of each of its tensors.

Imports: errors, private.
"""
