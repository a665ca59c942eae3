"""Parameters that leave an optimizer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

Leaving: TypeAlias = Tensor | str | Iterable[Tensor | str]
"""Parameters, or the names that they have in groups."""


def forget(groups: Sequence[dict[str, Any]], state: MutableMapping[Tensor, Any], params: Leaving) -> None:
    """Takes parameters out of groups, in place, and out of the state. Raises ValueError before anything has changed."""
    wanted = [params] if isinstance(params, Tensor | str) else list(params)
    present = {id(p): p for group in groups for p in group["params"]}
    named = {n: p for group in groups for n, p in zip(group.get("param_names", ()), group["params"], strict=False)}
    leaving: dict[int, Tensor] = {}
    for item in wanted:
        p = named.get(item) if isinstance(item, str) else item
        if p is None or id(p) not in present:
            raise ValueError(f"cannot forget {_unknown(item, named)}")
        leaving[id(p)] = p
    for group in groups:
        stay = [place for place, p in enumerate(group["params"]) if id(p) not in leaving]
        for key in ("params", "param_names"):
            if key in group:
                group[key][:] = [group[key][place] for place in stay]
    for p in leaving.values():
        state.pop(p, None)


def _unknown(item: Any, named: Iterable[str]) -> str:
    if isinstance(item, Tensor):
        return f"a tensor of shape {tuple(item.shape)}: it is no parameter of this optimizer"
    if not isinstance(item, str):
        return f"{item!r}: give parameters or their names"
    known = list(named)
    if not known:
        return f"{item!r}: the parameters of this optimizer have no names, give the parameter itself"
    near = difflib.get_close_matches(item, known, 2)
    return f"{item!r}: no parameter is called so; " + (
        f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {len(known)}, such as {known[0]!r}"
    )
