"""What a capture has baked into a program must be the same on every rank, and no rank's own rows."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from graphshard.errors import CaptureError, RuntimeMismatch
from graphshard.execute.agreement import digest
from graphshard.execute.run import Compiled
from graphshard.ir.placement import Placed
from graphshard.ir.program import Program
from graphshard.ir.source import where
from graphshard.ranks.checksums import digest_of
from graphshard.ranks.groups import all_gather_object, group_size
from graphshard.shard.shard import Shard


def check_baked(compiled: Compiled, shard: Shard, group: str) -> None:
    """Compare over the ranks what was captured; of several ranks collective.

    Raises:
        CaptureError: forward reads a tensor of the shard that is no argument, or leaves rows on a module.
        RuntimeMismatch: a constant, or a number in the program, differs between the ranks.
    """
    if group_size(group) == 1:
        return
    program = compiled.captured.program
    mine = {t.untyped_storage().data_ptr(): name for name, t in shard.parts().items() if _is_strided(t)}
    found = dict(_constants(program))
    read = {
        name: mine[t.untyped_storage().data_ptr()]
        for name, t in program.constants.items()
        if _is_strided(t) and t.untyped_storage().data_ptr() in mine
    }
    facts = {name: digest_of([(name, t)]) for name, t in program.constants.items()}
    everyone = all_gather_object((facts, digest({"code": str(program.module.code)}), read), group)
    for name, argument in {k: v for _, _, one in everyone for k, v in one.items()}.items():
        raise CaptureError(
            f"forward reads the shard's tensor {argument!r}{where(found[name])}, which is no argument of it: a program "
            "would keep this rank's rows as a constant. Pass it to forward as an argument"
        )
    for rank, (theirs, code, _) in enumerate(everyone):
        _compare(rank, everyone[0][0], theirs, found)
        if code != everyone[0][1]:
            raise RuntimeMismatch(
                f"the program captured on rank {rank} differs from that of rank 0: forward reads a Python number that "
                "differs between the ranks (a global, a closure, .item() of a tensor of the shard). Pass tensors to "
                "forward as arguments"
            )
    _check_left(compiled)


def _is_strided(tensor: object) -> bool:
    return str(getattr(tensor, "layout", "")) == "torch.strided"


def _constants(program: Program) -> Iterator[tuple[str, fx.Node]]:
    """Each constant and the node that reads it first."""
    nodes = program.graph.find_nodes(op="placeholder")
    for spec, node in zip(program.inputs, nodes, strict=True):
        if spec.kind == "constant":
            yield spec.target, next(iter(node.users), node)


def _compare(rank: int, first: dict[str, str], other: dict[str, str], found: dict[str, fx.Node]) -> None:
    for name in {**first, **other}:
        if first.get(name) != other.get(name):
            place = where(found[name]) if name in found else ""
            raise RuntimeMismatch(
                f"forward reads a tensor{place} that is no argument, parameter or buffer, and differs between rank 0 "
                f"and rank {rank}: a program would keep it. If it is made from rows of the shard, pass it "
                "to forward as an argument; otherwise register it as a buffer, which starts equal on all ranks"
            )


def _check_left(compiled: Compiled) -> None:
    """Refuse rows that forward leaves on a module: a script would take them for all rows."""
    captured = compiled.captured
    if not captured.written:
        return
    user = compiled.program.user_outputs()
    for (path, name), numbers in zip(captured.written, captured.left_numbers(), strict=True):
        for number in numbers:
            node = user[number]
            placed = node.meta.get("placement") if isinstance(node, fx.Node) else None
            if isinstance(placed, Placed) and any(rows is not None for rows in placed.dims):
                at = f"{path}.{name}" if path else name
                raise CaptureError(
                    f"forward leaves rows ({placed}) in attribute {at!r}{where(node)}; on several ranks these are "
                    "this rank's rows alone. Return them from forward, or leave a value of all rows (a mean) there"
                )
