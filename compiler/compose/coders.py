"""How states are kept whose storage has written out other states in their place: for who loads them into another storage.

Such a storage has no form of its own in what is compiled: its lines are the step's. A coder is an optimizer that does nothing
else: its step reads a state x, kept by the storage, into θ, and keeps the gradient as the next x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from optc.compiler.compose.unfold import by_states, known_storages
from optc.dsl import nodes
from optc.dsl.errors import SpecError
from optc.dsl.parse import parse
from optc.dsl.scope import walk
from optc.dsl.show import show
from optc.dsl.source import Source
from optc.dsl.storages import others_of

_CODER = """
optimizer Coder:
    hyper: lr = 1 in [0, inf)
    state: x = 0
    step:
        θ <- lr*x
        x <- g
"""
_OF_SIZES = _CODER.replace("x <- g", "x <- abs(g)")
"""For storages that keep no negative numbers, and want to be sure."""


@cache
def _coder(text: str) -> nodes.Optimizer:
    return parse(Source("<coder>", text)).optimizer


def coders(
    optimizer: nodes.Optimizer, shape: str | None, storages: tuple[nodes.Storage, ...], fits: Callable[[Source], object]
) -> tuple[tuple[str, str], ...]:
    """The keys of such states, each with the text of its coder. `shape`: what rows are rows of once it is written out.

    `fits` raises SpecError where a coder has mistakes: storages of codes for numbers of 0 or above want to be given such ones.
    A state with no coder that fits is left out.
    """
    known = known_storages(storages)
    keys = {s.name: s.outside or s.name for item in optimizer.states for s in walk(item) if isinstance(s, nodes.State)}
    found = []
    for kept, storage in by_states(optimizer, known):
        wanted = {kept.storage, *(inner.storage for inner in storage.storing), others_of(storage)}
        beside = tuple(s for s in storages if s.name in wanted)
        for text in (_CODER, _OF_SIZES):
            plain = replace(_coder(text), shape=storage.shape or shape, storing=(replace(kept, state="x"),))
            shown = show(nodes.Spec(plain, (), beside))
            try:
                fits(Source("<coder>", shown))
            except SpecError:
                continue
            found.append((keys[kept.state], shown))
            break
    return tuple(found)
