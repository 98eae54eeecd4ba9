"""The training loop of the command line, and how its ranks are started.

Imports: api, border, checkpoint, errors, execute, graph, options, ranks, shard, tools.output, tools.targets.
"""
