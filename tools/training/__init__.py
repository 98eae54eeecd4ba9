"""The training loop of the command line, and how its ranks are started.

Imports: api, errors, execute, graph, ops, options, ranks, shard, tools.output, tools.targets.
"""
