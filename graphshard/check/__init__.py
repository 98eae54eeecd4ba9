"""Proof that a distributed program computes what the single machine does.

::

    single machine (eager) -----> outputs, gradients, buffers -----+
    program on one rank --------> values of every sync ------------+--> compare by global ids --> report
    program on k ranks ---------> all of them, row by row ---------+

``module.py`` compares the program on one rank with the untouched module, each time a model is captured.

Imports: capture, catalogue, errors, execute, graph, infer, ir, kernels, ops, options, partitioning, private, ranks,
shard.
"""

from graphshard.check.report import Report, Row
from graphshard.check.verify import verify

__all__ = ["Report", "Row", "verify"]
