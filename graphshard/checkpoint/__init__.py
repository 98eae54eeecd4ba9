"""What a run needs to go on after its processes ended: saved by all ranks, continued by any number of them.

Imports: api, errors, private, ranks, shard.
"""
