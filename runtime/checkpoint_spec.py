"""Which spec a state dict comes from: states may fit, and yet stand for something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optc.runtime.schema import Schema

SPEC = "spec"
"""The key of a state dict's groups that names the optimizer and, by a hash, its mathematics."""


def told(schema: Schema, group: Mapping[str, Any]) -> dict[str, Any]:
    """A group of a state dict with the spec it comes from."""
    return {**group, SPEC: _shown(schema)}


def changed(schema: Schema, saved: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to say of groups that come from another version of the spec; nothing of other optimizers, or where none is told."""
    there = {spec for group in saved if isinstance(spec := group.get(SPEC), str) and spec.split(" ")[0] == schema.name}
    return [f"the spec of {schema.name} has changed since the state dict was made"] if there - {_shown(schema)} else []


def _shown(schema: Schema) -> str:
    return f"{schema.name} {schema.digest[:16]}"
