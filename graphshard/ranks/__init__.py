"""The processes of a job: groups, local launches, simulated ranks. Imports errors only."""
