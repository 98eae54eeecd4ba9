"""One step of a compiled program on one rank, and what ranks agree on before it.

Imports: capture, errors, graph, infer, ir, kernels, ops, options, passes.pipeline, private, ranks, shard,
version.
"""
