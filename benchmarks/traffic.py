"""Bytes that one step moves, from the data that a generated module carries: no spec is read and no compiler is needed.

The compiler's own count is `optc.compiler.traffic`; they agree for every shipped spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from optc.runtime.pairs import rest_dtype
from optc.runtime.schema import Condition, Schema, Stream

ITEM_SIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtypes by name: of θ, of g (and inputs), of states."""

    theta: str
    gradient: str
    state: str

    def size(self, stream: Stream, variant: Mapping[str, bool]) -> float:
        """Bytes of one element of a stream; those of codes with their share of a scale."""
        book = stream.codebook(variant)
        if book is not None:
            return 1 / book.per_byte + 4 / book.block
        if isinstance(stream.storage, str):
            return ITEM_SIZE[stream.storage]
        if stream.role == "rest":
            return 0.0  # moved with θ, where there is one
        if stream.role == "theta" and stream.pair is not None:
            rest = rest_dtype(stream.pair, getattr(torch, self.theta))
            return ITEM_SIZE[self.theta] + (rest.itemsize if rest is not None else 0)
        return ITEM_SIZE[{"theta": self.theta, "state": self.state}.get(stream.role, self.gradient)]


FLOAT32 = Precision("float32", "float32", "float32")
BFLOAT16 = Precision("bfloat16", "bfloat16", "float32")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes per element of θ that one pass over memory reads and writes."""

    bytes_read: float
    bytes_written: float

    @property
    def total(self) -> float:
        """Bytes moved."""
        return self.bytes_read + self.bytes_written


def step_passes(schema: Schema, hypers: Mapping[str, object], precision: Precision) -> tuple[Traffic, ...]:
    """What each pass of `step` reads and writes, in the variant that `hypers` (by key, over the defaults) select.

    Raises ValueError where only some elements are picked: streams do not tell which of them are read at these alone.
    """
    values: dict[str, object] = {"ndim": 2, "numel": 1 << 20, "bf16": False}
    for hyper in schema.hypers:
        chosen = hypers.get(hyper.key, hyper.defaults if hyper.is_tuple else hyper.defaults[0])
        values |= zip(hyper.names, chosen if isinstance(chosen, tuple) else (chosen,), strict=True)

    def holds(condition: Condition | None) -> bool:
        return condition is None or condition.holds(values)

    if schema.pick is not None and values[schema.pick] != 1:
        raise ValueError(f"bytes are counted with {schema.pick} = 1")
    absent = {state.name for state in schema.states if not holds(state.exists)}
    variant = {name: holds(condition) for name, condition in schema.flags}
    passes = []
    for kernel in schema.procedure("step").kernels:
        for streams in kernel.sweeps(variant):
            present = [s for s in streams if s.name not in absent and s.per_element and s.role != "element"]
            read = sum(precision.size(s, variant) for s in present if s.is_read(variant))
            passes.append(Traffic(read, sum(precision.size(s, variant) for s in present if s.is_written(variant))))
    return tuple(passes)


def step_bytes(schema: Schema, hypers: Mapping[str, object], precision: Precision) -> Traffic:
    """What all passes of `step` move together."""
    passes = step_passes(schema, hypers, precision)
    return Traffic(sum(p.bytes_read for p in passes), sum(p.bytes_written for p in passes))
