"""The training loop of the command line, and how its ranks are started."""
