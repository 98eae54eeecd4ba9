"""globalize_ids: node numbers that a program computes with become global ids.

Before::  lower = lt(src, dst)
After::   src_ids = index(node_ids, [src]); dst_ids = index(node_ids, [dst]); lower = lt(src_ids, dst_ids)

Local numbers are right for reading and writing rows, and for ``==``; as numbers they mean something else on
each rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphshard.passes.base import Emitter, Program
from graphshard.passes.infer_placement import infer
from graphshard.passes.rules.call import GlobalIds


@dataclass(frozen=True)
class GlobalizeIds:
    """Look up the global id of every node number that is used as a number; counts the uses."""

    name: str = "globalize_ids"

    def run(self, program: Program) -> int:
        wanted = [e for e in infer(program).edits if isinstance(e, GlobalIds)]
        for edit in wanted:
            emit = Emitter(program, edit.user)
            ids = program.placeholder("node_ids")
            with emit.before(edit.user):
                looked_up = emit.call(
                    torch.ops.aten.index.Tensor, ids, [edit.value], name=f"{edit.value.name}_global"
                )
            edit.user.replace_input_with(edit.value, looked_up)
        return len(wanted)
