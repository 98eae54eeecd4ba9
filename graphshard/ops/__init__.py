"""What a rewritten program calls: exchanges, aggregations, random numbers.

Imports: errors, kernels, private, ranks.
"""
