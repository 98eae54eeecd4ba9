"""The catalogue of ops: one record for each, in one file for each family.

To add an op, write its placement rule, a function ``rule(call) -> Placement``, in the file of its family, and name
the op in that file's ``OPS``; users add theirs with ``graphshard.register_rule``. A rule says where the result's rows
live, asks for the edits it needs, and refuses the rest. What else is known of an op stands in its `record.Op`.

Imports: errors, ir, ops, private.
"""
