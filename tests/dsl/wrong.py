"""Short ways to write a wrong spec, and to say what is found in it."""

from __future__ import annotations

import pytest

from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.parse import parse
from optc.dsl.source import Source


def diagnose(text: str) -> SpecError:
    source = Source("wrong.opt", text)
    spec = parse(source)
    with pytest.raises(SpecError) as caught:
        check(spec, source)
    return caught.value


def found(error: SpecError) -> list[str]:
    """`line:column code` of each diagnostic."""
    places = [error.source.position(d.span.start) for d in error.diagnostics]
    return [f"{line}:{column} {d.code}" for (line, column), d in zip(places, error.diagnostics, strict=True)]


def step(*lines: str, hyper: str = "lr = 0.1", state: tuple[str, ...] = ("m = 0",), more: tuple[str, ...] = ()) -> str:
    """A spec whose step's first line is line 6 (with one line of states, further declarations follow the step)."""
    rows = ["optimizer X:", "    hyper:", f"        {hyper}"]
    rows += ["    state:", *(f"        {s}" for s in state)] if state else []
    rows += ["    step:", *(f"        {line}" for line in lines), *(f"    {m}" for m in more)]
    return "\n".join(rows) + "\n"


END = ("m <- ema(m, g, 0.9)", "θ <- θ - lr*m")
"""Two lines that use everything `step` declares by default; the first is line 7 where nothing precedes them."""
