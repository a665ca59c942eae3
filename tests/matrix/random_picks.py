"""Random lines on picked elements, for `random_programs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.matrix.random_programs import Writer

INITIAL = ("0", "h1", "pick(θ, p)", "pick(g, p)² + 0.1")
"""Of the state `e`, per pick(p)."""


def value(writer: Writer, depth: int) -> str:
    """A value per picked element."""
    if depth <= 0:
        return writer.pick([*writer.chosen, f"pick({writer.element(0)}, p)"])
    x, y, h = value(writer, depth - 1), value(writer, depth - 1), writer.host(writer.draw(st.integers(0, 1)))
    n = writer.number(0) if writer.reducing else h
    return writer.pick(
        [
            f"pick({writer.element(depth)}, p)",
            f"({x} - {y})",
            f"tanh({x})*{h}",
            f"{x}/(1 + abs({n}))",
            f"where({x} > {h}, {y}, {x})",
            f"where({writer.unless_waiting(x, y)}, {x}, {h})",
            f"ema({x}, {y}, h1)",
            f"clamp({x}, -{h}, {h})",
        ]
    )


def number(writer: Writer) -> str:
    """One number of picked elements."""
    x = value(writer, 1)
    means = [f"mean({x})", f"norm({x})/(1 + numel)", f"count({x} > 0)/numel", f"dot({x}, {x})/numel"]
    return writer.pick([*means, f"max(abs({x}))", f"min({x})"])


def line(writer: Writer, indent: str, depth: int) -> None:
    """Writes a line on picked elements, or with a number of them."""
    kind = writer.draw(st.integers(0, 3))
    if kind == 0 and depth == 0:
        name = f"p{len(writer.chosen)}"
        writer.lines.append(f"{indent}{name} = {value(writer, 2)}")
        writer.chosen.append(name)
    elif kind == 1 and writer.reducing and depth == 0:
        name = f"n{len(writer.numbers)}"
        writer.lines.append(f"{indent}{name} = {number(writer)}")
        writer.numbers.append(name)
    elif kind == 2 and len(writer.chosen) > 1:
        writer.lines.append(f"{indent}{writer.pick(writer.chosen[1:])} = tanh({value(writer, 1)})")
    else:
        writer.lines.append(f"{indent}e <- tanh({value(writer, 2)})")


def last_lines(writer: Writer) -> None:
    """Every name is read; what is picked comes back to elements as one number only."""
    writer.lines.append(f"        e <- tanh({value(writer, 1)})")
    if writer.reducing:
        writer.lines.append(f"        picked = mean({' + '.join([*writer.chosen, 'pick(θ, p)'])})")
        writer.numbers.append("picked")
    else:
        writer.lines.append(f"        e <- tanh({' + '.join(writer.chosen)})")
