"""Who owns which node: METIS parts, local numbers, shards. Imports graph, shard and errors."""
