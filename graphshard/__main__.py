"""``python -m graphshard``: the command line."""

from graphshard.tools.cli import main

if __name__ == "__main__":
    main()
