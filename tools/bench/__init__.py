"""Benchmarks: ``graphshard bench NAME``, each one command that writes a JSON and a picture.

::

    generate.py                   the graphs: communities with power-law degrees, a mesh, points with a radius
    systems.py --> worker.py      training epochs of graphshard, PyG and DGL, each in processes of its own
                     system_*.py  what one system makes of the graph
    memory.py                     peak memory of a rank, by the same processes
    kernels.py                    aggregations against what people write, and against the memory's bandwidth
    scaling.py                    halo rows, bytes and a predicted epoch for up to 256 parts
    partitioning.py               partition methods side by side, each in a process of its own
    small.py                      steps of small graphs, on real ranks
    planned.py                    what a plan says beside what as many ranks take
    exchange.py                   rows that ranks send for a sum, raw and preaggregated
    border.py                     what a loss of rows costs beside one by hand, and a gather
    compiling.py                  seconds of capture and of each pass

small.py and compiling.py are scripts as well, which also run on an older checkout. Nothing here is a test: times depend
on the machine, and are compared within one run only.

Imports: capture, errors, execute, kernels, ops, options, partitioning, passes.faster, passes.pipeline, planning,
ranks, tools.data, tools.output, tools.targets.
"""
