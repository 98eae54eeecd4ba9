"""What torch.load says of a file that it does not read."""

from __future__ import annotations

import pickle
import re

__all__ = ["unsafe_class"]


def unsafe_class(error: pickle.UnpicklingError) -> str | None:
    """The class for which ``torch.load(..., weights_only=True)`` refused a file; None if for another reason.

    Relies on words of its message: ``Unsupported global: GLOBAL module.name``, ``Unsupported class module.name``.
    """
    found = re.search(r"Unsupported (?:global|class): (?:GLOBAL )?(\S+)", str(error))
    return None if found is None else found[1]
