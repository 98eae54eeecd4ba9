"""What one rank holds of a graph, in memory and on disk, and its halo plan.

Imports: errors, graph, ir, ops, private, ranks.
"""
