"""States that are kept as other states, such as means of rows and columns, in a file or here: decoded, and kept anew.

A state dict says in its groups how, by a spec: an optimizer that reads a state x and keeps its gradient as the next x (see
`compiler/compose/coders.py`). It is compiled where it is needed. A spec is data, the one in a file as well; what does not keep
one state x, as coders do, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optc.runtime.backend import arithmetic_dtype
from optc.runtime.checkpoint_codes import STORING, Kept
from optc.runtime.checkpoint_parts import is_part
from optc.runtime.schema import Schema
from optc.runtime.state import Home

if TYPE_CHECKING:
    from optc.runtime.optimizer import Optimizer

CODERS = "coders"
"""The key of a state dict's groups under which it says how states are kept as other ones."""
_X = "x"
_LONGEST = 20_000
"""Characters of a coder's text."""


def told(schema: Schema, group: dict[str, Any]) -> dict[str, Any]:
    """A group of a state dict with the coders of its states."""
    return {**group, CODERS: dict(schema.coders)} if schema.coders else group


def recoded(
    schema: Schema, saved: Mapping[str, Any], entries: Mapping[str, Any], home: Home, changes: list[str]
) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """The entries of a parameter as a file of this optimizer would have them, and by which storages decoded ones were kept.

    `saved` is the group that the file has. Appends to `changes` what has been converted, unless it is yet to be encoded. Raises
    ValueError with the reason where something cannot be.
    """
    here, there = dict(schema.coders), saved.get(CODERS, {})
    if not isinstance(there, Mapping) or not all(isinstance(x, str) for one in there.items() for x in one):
        raise ValueError(f"{CODERS!r} must say of states how they are kept, each by a spec")
    states = {state.key: state for state in schema.states}
    found, decoded, p = dict(entries), {}, home.theta
    for key in sorted(key for key in {*here, *there} if here.get(key) != there.get(key)):
        name, own = _named(there.get(key)), _named(here.get(key))
        if any(map(is_part, entries.values())):
            raise ValueError(
                f"{key!r} is kept otherwise in the file ({name or 'by itself'}) than here ({own or 'by itself'}), and cannot "
                "be converted in parts: load the state dict that optc.dist.full_state_dict makes"
            )
        before = {*found}
        try:
            if key in there:
                _decode(_Coder.of(there[key], key, p), found, saved)
            if key in here and key in found:
                kept = Kept.of(saved, found, key, [])
                name = name or (kept.books[key].name if key in kept.books else "numbers")
                _encode(_Coder.of(here[key], key, p), found, kept.numbers(key, p))
        except ValueError as error:
            raise ValueError(f"{key!r} cannot be converted to how it is kept here: {error}") from None
        if {*found} == before:
            continue
        if key in found and key in states and home.codebook(states[key]) is not None:
            decoded[key] = name
        else:
            changes.append(f"{key!r} is kept as {name} in the file and as {own or 'numbers'} here: converted")
    return found, decoded


@dataclass(frozen=True, slots=True)
class _Coder:
    """A coder with a parameter of the shape of the one whose state `key` is converted."""

    optimizer: Optimizer
    theta: Tensor
    key: str

    @staticmethod
    def of(text: str, key: str, p: Tensor) -> _Coder:
        """That of a text. Raises ValueError where it is none, and where the compiler is not installed."""
        theta = torch.nn.Parameter(torch.zeros(p.shape, dtype=arithmetic_dtype(p.dtype), device=p.device))
        optimizer = _class(text)([theta], backend="torch")  # type: ignore[call-arg]  # a generated class has defaults
        return _Coder(optimizer, theta, key)

    def keep(self, x: Tensor) -> dict[str, Any]:
        """A step: keeps x, and leaves in θ what was kept before. Returns what is kept, by its keys in a file."""
        self.theta.grad = x.detach().to(self.theta.device, self.theta.dtype, copy=True)
        self.optimizer.step()
        slot = self.optimizer.state_dict()["state"][0]
        return {self.key + name.removeprefix(_X): entry for name, entry in slot.items() if name.startswith(_X)}


@lru_cache(maxsize=64)
def _class(text: str) -> type[Optimizer]:
    if len(text) > _LONGEST or "\n" not in text:
        raise ValueError("what the file has is no spec that could say how")
    try:
        from optc.compiler.instant import compile_class
        from optc.dsl.errors import OptcError
    except ModuleNotFoundError as error:
        raise ValueError(
            f"that takes the compiler, which needs {error.name}: load it where that is installed, and save it"
        ) from None
    try:
        found = compile_class(text)
    except OptcError as error:
        raise ValueError(f"the spec that says how is wrong: {str(error).splitlines()[0]}") from None
    schema = found.schema
    states = [key for state in schema.states for key in (state.key, state.name)]
    if schema.of_model or schema.pick is not None or schema.reads_loss or not all(name.startswith(_X) for name in states):
        raise ValueError("the spec that says how keeps other states than x")
    return found


def _decode(coder: _Coder, entries: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Puts numbers in the place of the states that stand for them, if they are there; small tensors may be kept as they are."""
    kept = coder.keep(torch.zeros_like(coder.theta))
    missing = sorted(kept.keys() - entries.keys())
    if coder.key in kept or len(missing) == len(kept):
        return
    if missing:
        raise ValueError(f"there must be {', '.join(map(repr, missing))}")
    packed = coder.optimizer.state_dict()
    group, books = packed["param_groups"][0], saved.get(STORING, {})
    if STORING in group and isinstance(books, Mapping):
        group[STORING] = {name: books.get(coder.key + name.removeprefix(_X), own) for name, own in group[STORING].items()}
    packed["state"][0] |= {_X + key.removeprefix(coder.key): entries.pop(key) for key in kept}
    coder.optimizer.load_state_dict(packed)
    coder.keep(torch.zeros_like(coder.theta))
    entries[coder.key] = coder.theta.detach().clone()


def _encode(coder: _Coder, entries: dict[str, Any], numbers: Tensor) -> None:
    """Puts the states that stand for numbers in their place."""
    entries.pop(f"{coder.key}_scale", None)
    del entries[coder.key]
    entries.update(coder.keep(numbers))


def _named(text: str | None) -> str:
    """What a coder's storage is called; nothing without one."""
    lines = [] if text is None else text.splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.strip().startswith("storing x:")), "")
