"""What one rank holds of a graph, in memory and on disk. Imports graph, ranks and errors."""
