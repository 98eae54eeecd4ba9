"""The command line: one thin file for each subcommand.

Imports: check, errors, graph, options, partitioning, planning, preview, ranks, shard, tools.bench, tools.data,
tools.output, tools.targets, tools.training, tools.zoo, training, version.
"""
