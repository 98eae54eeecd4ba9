"""What stands around the user's module and lets a script treat the distributed one as that.

Imports: errors, private, shard.
"""
