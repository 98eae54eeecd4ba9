"""The passes that make an exact program faster; each can be left out.

Imports: catalogue, errors, infer, ir, ops, private.
"""
