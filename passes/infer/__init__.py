"""Placement inference: one rule for each op, and the edits that rules ask for.

Imports: errors, ir.
"""
