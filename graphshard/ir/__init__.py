"""The program that passes read and write: placements, inputs, nodes, value numbers.

Imports: errors, graph, private.
"""
