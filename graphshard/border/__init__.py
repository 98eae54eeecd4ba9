"""What crosses the border of a program: whole tensors are cut and gathered, a rank's rows stay rows of the whole graph.

Imports: capture, check, errors, execute, graph, ir, kernels, ops, options, partitioning, private, ranks, shard,
wrapper.
"""
