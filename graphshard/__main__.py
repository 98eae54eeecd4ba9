"""``python -m graphshard``: the command line."""

from graphshard.tools.cli.app import main

if __name__ == "__main__":
    main()
