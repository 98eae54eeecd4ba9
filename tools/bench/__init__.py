"""Benchmarks: ``graphshard bench systems|kernels|memory|scaling``, each one command that writes a JSON and a picture.

::

    generate.py                   the graph: communities, power-law degrees
    systems.py --> worker.py      training epochs of graphshard, PyG and DGL, each in processes of its own
                     system_*.py  what one system makes of the graph
    memory.py                     peak memory of a rank, by the same processes
    kernels.py                    aggregations against what people write, and against the memory's bandwidth
    scaling.py                    halo rows, bytes and a predicted epoch for up to 256 parts

Nothing here is a test: times depend on the machine, and are compared within one run only.

Imports: errors, kernels, ops, partitioning, ranks, tools.output.
"""
