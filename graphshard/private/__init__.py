"""Every use of what torch, PyG, numba and llvmlite do not document: one file for each topic.

A function here says which internal it relies on and what its caller gets; ``tests/private`` has a test of each,
which fails where a new version has another. Nothing outside of this folder reads an undocumented name
(``tests/private/test_boundary.py``). Seen to work with torch 2.11 to 2.14 and PyG 2.6 to 2.8, but where a function
says more.

torch_ops.py             classes of ops, their schemas
pytree.py                nested containers as lists of leaves
fake_tensors.py          tensors without data, and numbers of rows that nobody knows yet
symbolic_sizes.py        what torch.export has noted about a symbolic size
torch_export.py          regions of a graph, asserts, paths of modules
torch_export_errors.py   which error means what, by its words
torch_backward.py        what is called when a script differentiates
torch_functions.py       autograd.Function, functions of C, modes of dispatch
torch_modules.py         the dicts of an nn.Module, batch norms
torch_tensors.py         versions of a tensor, entries of a sparse one
torch_graphs.py          nodes of torch.fx
torch_distributed.py     process groups by name, groups that are written in Python
torch_serialization.py   what torch.load refuses
pyg.py                   PyG's stores, layers and modules
numba_internals.py       LLVM code inside of numba's

Imports: nothing.
"""
