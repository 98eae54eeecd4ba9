"""The program that passes read and write: placements, inputs, nodes, values. Imports ops, graph and errors."""
