"""Who owns which node: partition methods, local numbers, and the shards cut by them.

problem.py        what a method is asked; methods.py has them all by name, each is a file:
                  metis.py, metis_volume.py, multilevel.py, coordinates.py, hypergraph.py
adjacency.py      rows of neighbours; loops.py are the compiled loops, compiled.py says whether they are there
assign.py         a method's answer, or the user's, for each node set
numbering.py      local numbers, halos, and the rows of each shard
report.py         how good a partition is; meter.py measures it


Imports: errors, graph, kernels, ranks, shard.
"""
