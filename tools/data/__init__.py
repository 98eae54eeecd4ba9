"""Graphs by name or file, for the command line.

Imports: errors, graph, private.
"""
