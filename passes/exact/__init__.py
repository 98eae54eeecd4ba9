"""The passes that make a program exact on any number of ranks, in the order of the pipeline.

Imports: catalogue, graph, infer, ir, ops, private.
"""
