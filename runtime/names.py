"""Names as users write them: case, `_`, `-` and spaces do not count."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_WRAPPERS = ("module.", "_orig_mod.")


def folded(name: str) -> str:
    """What two spellings of one name have in common."""
    return name.replace("_", "").replace("-", "").replace(" ", "").lower()


def found_name(name: str, known: Iterable[str], what: str) -> str:
    """The known name that is meant. Raises ValueError, with the nearest ones, where there is none."""
    names = list(known)
    by_fold = {folded(one): one for one in names}
    found = by_fold.get(folded(name))
    if found is None:
        near = [by_fold[close] for close in difflib.get_close_matches(folded(name), by_fold, 3)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names)}"
        raise ValueError(f"no {what} is called {name!r}: {hint}")
    return found


def parameter(group: Mapping[str, Any], place: int, label: str) -> str:
    """What errors call a parameter of a group: its name, if the group has names, else its place."""
    return f"parameter {group['param_names'][place]!r}" if "param_names" in group else f"parameter {place} of {label}"


def listed(head: str, problems: Sequence[str], most: int = 10) -> str:
    """A message with a line for each problem, of which the first are shown, and how many more there are."""
    more = [f"… and {len(problems) - most} more"] if len(problems) > most else []
    return "\n  ".join([head, *problems[:most], *more])


def not_ours(owner: str, given: Any) -> TypeError:
    """The error of what takes an optimizer of ours, for something else that it was given."""
    return TypeError(f"{owner} needs an optimizer of optc, not {class_name(type(given))}: make it with optc.create(…)")


def class_name(kind: type[Any]) -> str:
    """A class as users import it: with the outermost package that has it, `torch.optim.AdamW`."""
    path = kind.__module__.split(".") if kind.__module__ != "builtins" else []
    for length in range(1, len(path) + 1):
        module = sys.modules.get(".".join(path[:length]))
        if module is not None and vars(module).get(kind.__qualname__) is kind:
            return f"{module.__name__}.{kind.__qualname__}"
    return kind.__qualname__


def bare(name: Any) -> Any:
    """The name of a parameter without what DistributedDataParallel and torch.compile put before it."""
    while isinstance(name, str) and name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def bared(names: Iterable[str]) -> dict[str, str]:
    """The bare form of each of these names; the names as they are, where two would become one."""
    found = {name: str(bare(name)) for name in names}
    return found if len({*found.values()}) == len(found) else {name: name for name in found}
