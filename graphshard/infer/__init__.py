"""What is inferred about a program: placements, gradients, constants; and the tool that makes placed nodes.

Imports: catalogue, errors, ir, ops, private.
"""
