"""One step of a compiled program on one rank, and what ranks agree on before it.

Imports: capture, errors, graph, ir, options, partitioning, passes.pipeline, ranks, shard, version.
"""
