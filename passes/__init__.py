"""The passes: one file a pass, the file named as the pass."""

if __name__ != "graphshard.passes":
    raise ImportError(
        f"this folder is installed as graphshard.passes, not {__name__!r}: import graphshard.passes instead"
    )
