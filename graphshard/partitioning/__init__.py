"""Who owns which node: METIS parts, local numbers, and the shards cut by them.

Imports: errors, graph, ranks, shard.
"""
