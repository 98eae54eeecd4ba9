"""The command line and what serves it alone; nothing in graphshard imports it."""

if __name__ != "graphshard.tools":
    raise ImportError(
        f"this folder is installed as graphshard.tools, not {__name__!r}: import graphshard.tools instead"
    )
