"""The processes of a job: groups, local launches, simulated ranks, equal starts.

Imports: errors, private.
"""
