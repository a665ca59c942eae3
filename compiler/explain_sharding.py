"""`optc explain --sharding`: how parameters may be divided among processes, and what these then tell each other in a step."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from optc.dsl.errors import OptcError
from optc.dsl.source import Source

if TYPE_CHECKING:
    from optc.runtime.communication import Division, Message

SHAPES = "4096x4096,4096"
"""What bytes are counted for where nothing else is asked for."""

_WORDS = {"tensor": "a number of each tensor", "row": "of each row", "col": "of each column", "matrix": "of each matrix"}
_MOST = 1 << 40


def shapes_of(text: str) -> list[tuple[int, ...]]:
    """Shapes written as `4096x4096,4096`. Raises OptcError for anything else."""
    found = []
    for part in text.replace(" ", "").split(","):
        if re.fullmatch(r"[1-9]\d{0,11}([x×][1-9]\d{0,11})*", part) is None:
            raise OptcError(f"--shapes {text!r}: {part!r} is no shape; write sizes with x, shapes with commas: {SHAPES}")
        shape = tuple(map(int, re.split("[x×]", part)))
        if math.prod(shape) > _MOST:
            raise OptcError(f"--shapes {text!r}: {part!r} has more elements than any tensor")
        found.append(shape)
    return found


@dataclass(frozen=True, slots=True)
class Sharding:
    """How an optimizer may be divided, where its states then are, and the messages for parameters of some shapes."""

    optimizer: str
    shapes: Sequence[tuple[int, ...]]
    divisions: Sequence[Division]
    divided: Sequence[str]
    everywhere: Sequence[str]
    messages: Sequence[Message]
    zero1: Sequence[Message]

    def json(self) -> dict[str, object]:
        """As JSON values; `bytes` are those of a step."""
        return {**asdict(self), "bytes": sum(m.nbytes for m in self.messages if m.procedure == "step")}


def explain_sharding(source: Source, shapes: Sequence[tuple[int, ...]]) -> Sharding:
    """For parameters of these shapes, float32, with the default hypers. Raises SpecError where the spec is wrong."""
    import torch

    from optc.compiler.instant import compile_source
    from optc.runtime import communication

    schema = compile_source(source).schema
    values, states = schema.defaults, communication.placed(schema)
    sizes = [torch.Size(shape) for shape in shapes]
    matrix = next((size for size in sizes if len(size) == 2), torch.Size((4096, 4096)))
    messages = [m for one in schema.procedures for m in communication.of_shapes(schema, values, sizes, one.name)]
    divisions = communication.divisions(schema, values, matrix)
    zero1 = communication.of_zero1(schema, sizes) if divisions[-1].refusal is None else []
    return Sharding(schema.name, shapes, divisions, states["divided"], states["everywhere"], messages, zero1)


def show_sharding(told: Sharding) -> str:
    """The same as text."""
    lines = [f"{told.optimizer} on parameters that are divided among processes", ""]
    for way in told.divisions:
        lines.append(f"  {way.name}: {'yes' if way.refusal is None else 'no'}")
        lines += [f"      {way.refusal}"] if way.refusal is not None else []
    for message in told.zero1:
        sent = f"{message.nbytes:,} bytes after a step of {message.processes} processes"
        lines.append(f"      which sends what was updated in one {message.call}: {sent}")
    lines += ["", f"  states divided as their parameter is: {', '.join(told.divided) or 'none'}"]
    lines += [f"  the same on every process: {', '.join(told.everywhere)}"] if told.everywhere else []
    lines.append("")
    if not told.messages:
        lines.append("  Processes tell each other nothing in a step: every element is updated from what is beside it.")
        return "\n".join(lines)
    shown = ", ".join("×".join(map(str, shape)) for shape in told.shapes)
    lines.append("  What processes tell each other, however many parameters there are; bytes for parameters of the shapes")
    lines.append(f"  {shown}:")
    for message in told.messages:
        extents = {extent for _, extent in message.measures}
        words = "; ".join(_WORDS[extent] for extent in _WORDS if extent in extents)
        name = " and ".join({"sum": "sums", "largest": "the largest"}[joined] for joined in message.joins)
        among = f" among {message.processes} processes" if len(message.joins) > 1 else ""
        place = f"{message.procedure}, exchange {message.phase}"
        lines.append(f"    {place}: one all_reduce of {name}, {message.nbytes:,} bytes{among} ({words})")
        lines.append(f"        {', '.join(name for name, _ in message.measures)}")
    lines += [
        "",
        "  Passes run on what is here. What they measure is joined; what follows is computed on all processes alike. These are",
        "  the messages of two processes with parts by rows. On a mesh of two dimensions there is one along each, for all",
        "  parameters that are divided along the same dimensions.",
    ]
    return "\n".join(lines)
