"""What crosses the border of a program: whole tensors are cut on the way in and gathered on the way out.

Imports: errors, execute, graph, ir, ops, partitioning, private, ranks, shard.
"""
