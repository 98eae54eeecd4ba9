"""What a rewritten program calls: exchanges, aggregations, random numbers. Imports kernels, ranks, errors."""
