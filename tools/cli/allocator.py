"""``graphshard allocator``: what a launcher that is not graphshard's has to set for ranks with mimalloc."""

from __future__ import annotations

from graphshard.tools import output


def allocator() -> None:
    """Print the variables that give ranks mimalloc: ``env $(graphshard allocator) torchrun ...``."""
    from graphshard.ranks.memory import allocator_environment

    found = allocator_environment()
    if not found:
        note = "the C library's allocator stays: mimalloc comes with graphshard[fast], on Linux"
        output.console(stderr=True).print(note, markup=False, soft_wrap=True)
    for name, value in found.items():
        print(f"{name}={value}")
