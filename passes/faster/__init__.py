"""The passes that make an exact program faster; each can be left out.

Imports: errors, ir, ops, passes.infer.
"""
