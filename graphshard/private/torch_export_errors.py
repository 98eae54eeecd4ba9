"""The errors of torch.export, told apart by their words and classes."""

from __future__ import annotations

__all__ = [
    "FAKE_TENSOR_CAST",
    "FAKE_TENSOR_KEPT",
    "NOT_A_PARAMETER",
    "NO_NUMPY",
    "is_about_the_model",
    "is_data_dependent",
    "is_fixed_size",
]

FAKE_TENSOR_KEPT = "fake tensor in the exported program constant"
"""Words of torch.export where the module keeps a tensor that it made while it was traced."""
FAKE_TENSOR_CAST = "Cannot cast FakeTensor"
"""Words of torch where a fake tensor is asked for its data."""
NO_NUMPY = ".numpy() is not supported"
"""Words of torch where a fake tensor is asked for a NumPy array."""
NOT_A_PARAMETER = "is not an instance of torch.nn.Parameter"
"""Words of torch.export where a module hands out plain tensors as its parameters: torch.jit's do."""


def is_data_dependent(error: BaseException) -> bool:
    """Whether torch.export says that Python looked at a tensor's value.

    Relies on words of its messages, and on the name of ``GuardOnDataDependentSymNode``.
    """
    text = str(error)
    words = "data-dependent" in text or "Could not guard" in text
    return words or "GuardOnDataDependent" in type(error).__name__


def is_fixed_size(error: BaseException) -> bool:
    """Whether torch.export says that a row count has to be the one of the example.

    Relies on words of its messages: "Constraints violated", "specialized".
    """
    text = str(error)
    return "onstraint" in text and ("violated" in text or "pecializ" in text)


def is_about_the_model(error: BaseException) -> bool:
    """Whether torch.export says that the model, or what it was called with, cannot be exported.

    Relies on ``torch._dynamo.exc.UserError``.
    """
    from torch._dynamo.exc import UserError  # takes a second, unless something was exported before

    return isinstance(error, UserError)
