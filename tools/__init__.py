"""The command line: ``cli.py`` and one thin file for each subcommand."""

if __name__ != "graphshard.tools":
    raise ImportError(
        f"this folder is installed as graphshard.tools, not {__name__!r}: import graphshard.tools instead"
    )
