"""The optimizer's state as dicts that count their changes: one look tells whether anybody touched thousands of entries.

Entries are tensors; what is written into them is seen where they are used. What counts is that each stays the same tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


class Changes:
    """How often any dict of one optimizer's state was written to."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


def _counted(name: str) -> Callable[..., Any]:
    original = getattr(dict, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.changes.count += 1
        return original(self, *args, **kwargs)

    method.__name__, method.__doc__ = name, original.__doc__
    return method


_WRITES = ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update")


class Slot(dict[str, Any]):
    """The state of one parameter."""

    __slots__ = ("changes",)

    def __init__(self, changes: Changes, entries: Mapping[str, Any] | None = None) -> None:
        super().__init__(entries or {})
        self.changes = changes

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class State(defaultdict[Tensor, dict[str, Any]]):
    """The state of all parameters; a missing one gets an empty slot. A plain dict that is put in stays one, unwatched."""

    def __init__(self, slots: Mapping[Tensor, Mapping[str, Any]] | None = None) -> None:
        super().__init__()
        self.changes = Changes()
        for p, slot in (slots or {}).items():
            dict.__setitem__(self, p, Slot(self.changes, slot))

    def __missing__(self, p: Tensor) -> dict[str, Any]:
        slot = Slot(self.changes)
        self[p] = slot
        return slot

    def __reduce__(self) -> tuple[Any, ...]:
        return defaultdict, (dict,), None, None, iter(self.items())  # nothing of ours is needed to read it

    def copy(self) -> State:
        """One with slots of its own."""
        return State(self)

    @property
    def watched(self) -> bool:
        """Whether every slot counts its changes here."""
        return all(type(slot) is Slot and slot.changes is self.changes for slot in self.values())


for _name in _WRITES:
    setattr(Slot, _name, _counted(_name))
    setattr(State, _name, _counted(_name))


def settled(state: Any) -> tuple[State | None, int]:
    """The state and how many changes it has seen; -1, which it never has, if it has dicts that do not count."""
    return (state, state.changes.count if state.watched else -1) if isinstance(state, State) else (None, -1)
