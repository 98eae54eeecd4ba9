"""Capture: from a user's module to a flat graph of ATen ops.

::

    refuse what would be silently wrong  ->  example inputs  ->  torch.export  ->  clean  ->  Program
    (refusals.py)                            (examples.py)       (export.py)      (clean.py)

Nothing here looks at a shard: every rank captures the identical program.

Imports: errors, graph, ir, ops, private.
"""
