"""Random branches for tensors with rows and columns, for `random_programs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.matrix.random_programs import Writer


def matrices(writer: Writer, indent: str, depth: int) -> None:
    """A branch on whether there are rows and columns."""
    inside = indent + "    "
    writer.lines.append(f"{indent}if ndim >= 2{writer.pick(['', '', ' and h2 > 0' if writer.matrix else ''])}:")
    narrow, matrix, writer.narrow, writer.matrix = writer.narrow, writer.matrix, True, True
    names = {k: len(v) for k, v in writer.vectors.items()}
    for _ in range(writer.draw(st.integers(1, 3))):
        extent = writer.pick(["row", "col", "matrix"])
        if (kind := writer.draw(st.integers(0, 2))) == 0:
            writer.lines.append(f"{inside}{extent[0].upper()} <- tanh({writer.vector(1, extent)})")
        elif kind == 1 and depth == 0:
            name = f"r{sum(map(len, writer.vectors.values()))}"
            writer.lines.append(f"{inside}{name} = {writer.vector(2, extent)}")
            writer.vectors[extent].append(name)
        else:
            writer.lines.append(f"{inside}{writer.pick(writer.states)} <- tanh({writer.element(2)})")
    number, element = (writer.number(1), writer.element(2)) if depth == 0 else ("", "")
    extent = writer.pick(["row", "col", "matrix"])
    vector = writer.vector(1, extent)
    for extent_, count in names.items():
        element += "".join(f" + 0.1*{name}" for name in writer.vectors[extent_][count:])
        del writer.vectors[extent_][count:]
    writer.matrix = matrix
    if depth == 0:
        same, other, mixed = f"n{len(writer.numbers)}", f"x{len(writer.locals)}", f"y{len(writer.mixed())}"
        writer.lines += [f"{inside}{same} = {number}", f"{inside}{other} = {element}", f"{inside}{mixed} = {vector}"]
        writer.lines += [
            f"{indent}else:",
            f"{inside}V <- tanh({writer.element(1)} + V)",
            f"{inside}{same} = {writer.number(1)}",
        ]
        alone = writer.pick([writer.number(0), writer.host(1)])
        writer.lines += [f"{inside}{other} = V*{writer.element(1)}", f"{inside}{mixed} = {alone}"]
        writer.numbers.append(same)
        writer.locals.append(other)
        writer.vectors[extent].append(mixed)
    writer.narrow = narrow
