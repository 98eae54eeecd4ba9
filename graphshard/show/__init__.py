"""Programs and their differences as text, and the bytes that they send.

Imports: catalogue, errors, infer, ir, ops, private.
"""
