"""Kernels behind one interface: loops over the edges of each row of a sparse matrix, and dropouts of rows.

structure.py       the matrix of a set of edges and its transpose, as tensors
random_bits.py     random numbers by row and call site, the same on any number of ranks
masks.py           which elements a dropout keeps: said, not stored
interface.py       what kernels there are, and which implementation a tensor gets
numba_cpu.py       numba loops on the CPU's cores (numba_kernels.py, *_loops.py, vectors.py), if numba works
machine_code.py    compiles them, and keeps the code on disk under the name of their sources
torch_sparse.py    torch's own sparse and scatter ops, on any device

Imports: errors, private.
"""
