"""Parameters of a state dict and of an optimizer, matched by their names where both have some.

Torch goes by place alone: parameters that come in another order get each other's states, silently where shapes are the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from optc.runtime.callers import stacklevel
from optc.runtime.names import bare

NAMES = "param_names"
"""The key of a group under which its parameters' names are."""
_SHOWN = 3


def by_name(
    name: str, saved: Sequence[Mapping[str, Any]], present: Sequence[Mapping[str, Any]], problems: list[str]
) -> list[Mapping[str, Any]]:
    """The groups of a file with their `params` in the order that they have in the groups of the optimizer, called `name`.

    What DistributedDataParallel and torch.compile put before names does not count. Groups whose names have nothing in common
    were renamed as a whole: these go by place, with a warning. Adds to `problems` where some names are on one side only.
    """
    return [_in_order(f"{name}: group {k}", *pair, problems) for k, pair in enumerate(zip(saved, present, strict=True))]


def _in_order(label: str, saved: Mapping[str, Any], present: Mapping[str, Any], problems: list[str]) -> Mapping[str, Any]:
    there, here = _names(saved), _names(present)
    if there is None or here is None or there == here:
        return saved
    index = dict(zip(there, saved["params"], strict=True))
    if len(index) < len(there) or len(set(here)) < len(here):
        return saved
    if set(index) == set(here):
        return {**saved, "params": [index[one] for one in here]}
    missing, unknown = [one for one in here if one not in index], [one for one in there if one not in set(here)]
    if len(missing) == len(here) == len(there):
        warnings.warn(
            f"{label}: all parameters have other names in the state dict ({there[0]!r} for {here[0]!r}, …); they were "
            "matched by their places",
            stacklevel=stacklevel(),
        )
        return saved
    problems.append(f"{label} has no {_some(unknown)} here, and no {_some(missing)} in the state dict")
    return saved


def _names(group: Mapping[str, Any]) -> list[str] | None:
    """The names of a group's parameters; None where it has none for each."""
    names = group.get(NAMES)
    if not isinstance(names, list | tuple) or len(names) != len(group["params"]):
        return None
    return [str(bare(one)) for one in names]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(map(repr, names[:_SHOWN])) or "other parameters") + more
