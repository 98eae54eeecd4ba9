"""The errors of torch.export and of the user's own module, as one sentence with a place and a way out."""

from __future__ import annotations

import traceback

from torch import nn

from graphshard.capture.fixed_sizes import FixedSizeError
from graphshard.errors import CaptureError
from graphshard.ir.source import is_own
from graphshard.private.torch_export_errors import (
    FAKE_TENSOR_CAST,
    FAKE_TENSOR_KEPT,
    NO_NUMPY,
    NOT_A_PARAMETER,
    is_data_dependent,
    is_fixed_size,
)


def explained(error: Exception, model: nn.Module) -> CaptureError:
    """What torch.export could not do, in the user's terms."""
    place = user_place(error, model)
    text = str(error)
    if is_data_dependent(error):
        reason = (
            "the model decides what to compute by looking at the data (an if, a while or an int() on a "
            "tensor's value), so each rank could run another program; compute both sides and use torch.where"
            ", or pass sizes such as dim_size explicitly"
        )
    elif isinstance(error, FixedSizeError) and not error.args:
        reason = (
            "the model treats some number of nodes or edges in a special way, so one program cannot serve every "
            "shard; write this step without a condition on sizes"
        )
    elif isinstance(error, FixedSizeError):
        reason = (
            f"{error} works for some numbers of nodes or edges only, so one program cannot serve every shard; "
            "write this step with ops that take any number of rows"
        )
    elif is_fixed_size(error):
        reason = (
            "the model treats some number of nodes or edges in a special way, so one program cannot serve "
            f"every shard: {first_line(error).partition(' For more information')[0]}"
        )
    else:
        said = f"{type(error).__name__}: {first_line(error)}"
        meant = next(
            (meaning for words, meaning in _MEANT if words in text), "torch.export cannot capture it"
        )
        reason = f"{meant} ({said})" if meant in _MEANINGS else f"{meant}: {said}"
    called = "the model" if not is_own_module(model) else "it"
    return CaptureError(f"cannot capture {called}{place}: {reason}")


_KEEPS = (
    "forward keeps a tensor that it made (on the module, in a list, in a global) for a later call, which a captured "
    "program would not do; register it as a buffer in __init__, or compute it anew in each call"
)
_LEAVES = (
    "forward hands a tensor to code that is not PyTorch's (NumPy, SciPy, an extension), which sees no values while it "
    "is captured; write the step with torch ops, or compute it before and pass it as an argument"
)
_MEANT = (
    (FAKE_TENSOR_KEPT, _KEEPS),
    (FAKE_TENSOR_CAST, _LEAVES),
    (NO_NUMPY, _LEAVES),
    (NOT_A_PARAMETER, "a submodule was compiled by torch.jit; use the module it was made from"),
)
"""What messages of torch.export mean to who wrote the model."""
_MEANINGS = frozenset(meaning for _, meaning in _MEANT)


def user_place(error: BaseException, model: nn.Module) -> str:
    """`` in module 'convs.0' (GCNConv) (model.py:12: `code`)`` from the error's own frames."""
    names = {id(m): n for n, m in model.named_modules()}
    module_text, line = "", ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        owner = frame.f_locals.get("self")
        inside = isinstance(owner, nn.Module) and id(owner) in names
        if inside and "torch/nn/modules/module.py" not in file and not is_own(file):
            name = names[id(owner)]
            module_text = (
                f" in module {name!r} ({type(owner).__name__})" if name else f" in {type(owner).__name__}"
            )
        if inside and "site-packages" not in file and not is_own(file):
            summary = traceback.FrameSummary(file, number, frame.f_code.co_name)
            line = f" ({file}:{number}: `{summary.line}`)"
    return module_text + line


def is_own_module(module: nn.Module) -> bool:
    """Whether a module is graphshard's: one function that a script called outside of a model."""
    return type(module).__module__.startswith(f"{__name__.partition('.')[0]}.")


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
