"""Several optimizers in one: every group says with its `type` which of them updates it; groups, state and state dict are one.

Inside, each type is a real optimizer that looks at the same group dicts and the same state, so that a parameter fares bit for
bit as with an optimizer of its own. A step makes all of them ready before the first one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optc.runtime import amp, counter, groups, hypers, loss, registry, steps
from optc.runtime.guard import Guard
from optc.runtime.loss_scale import LossScale
from optc.runtime.optimizer import Optimizer
from optc.runtime.parted import TYPE, Parted
from optc.runtime.registry import Config
from optc.runtime.watched import State

Routes: TypeAlias = Mapping[Any, Config] | Iterable[tuple[groups.Rule, Config]]
"""Rules with the optimizers that they are for, in order."""

_SHOWN = 5


def route(
    params: groups.Params,
    rules: Routes = (),
    *,
    otherwise: Config | None = None,
    frozen: bool = False,
    backend: str = "auto",
    maximize: bool = False,
    capturable: bool = False,
    amp: bool = False,
    nonfinite: str = "propagate",
    loss_scale: LossScale | None = None,
) -> Routed:
    """One optimizer that updates parameters by different rules: `[("blocks.*.weight", dict(type="SGD", lr=0.1)), …]`.

    `params`: a model, its named parameters, or groups, see `optc.groups`. Each parameter goes to the first rule that holds for
    it, the rest to `otherwise`. A rule is a pattern of names, a function (name, parameter) -> bool, or a tuple of these, with
    a dict of the optimizer's `type` (a name, a composition, a class, as for `optc.create`) and its hypers, or the type alone;
    what a group of `params` says itself (`weight_decay`, `lr`, even `type`) wins. Rules of one type are groups of one
    optimizer, as far as numbers of the whole model go; the norm that `clip_global_norm` bounds is that of all optimizers that
    have it. The other keywords are those of every optimizer, for all of them.

    Raises ValueError for parameters that no rule takes, rules that take none, unknown types and hypers out of range, TypeError
    for unknown hypers, and for what is no rule.
    """
    ordered, rest = groups.pairs(rules, TYPE), groups.options_of(otherwise, TYPE)
    for number, (_, options) in enumerate(ordered):
        _check(options, f"rule {number}")
    if rest is not None:
        _check(rest, "otherwise")
    found, left = groups.split(params, ordered, rest, frozen=frozen)
    if left:
        shown = ", ".join(map(repr, left[:_SHOWN])) + (f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else "")
        raise ValueError(f"no rule takes {shown}: add one, or otherwise=dict(type=…) for all that is left")
    return Routed(
        found,
        backend=backend,
        maximize=maximize,
        capturable=capturable,
        amp=amp,
        nonfinite=nonfinite,
        loss_scale=loss_scale,
    )


def _check(options: Any, label: str) -> None:
    """Raises ValueError for what is no type, TypeError for what is no dict and for keywords that the type does not have."""
    if not isinstance(options, Mapping):
        raise TypeError(f"{label} must be a type, such as 'AdamW', or a dict of it and hypers, not {options!r}"[:200])
    if TYPE not in options:
        raise ValueError(f"{label} has no 'type': say which optimizer it is for, such as dict(type='AdamW', lr=1e-3)")
    _, cls = registry.of_type(options[TYPE])
    known = [*(hyper.key for hyper in cls.schema.hypers), "maximize", "capturable"]
    for key in options:
        if key in ("backend", "amp", "nonfinite", "loss_scale"):
            raise TypeError(f"{label}: {key!r} is the same for all optimizers: give it to optc.route")
        if key not in known and key != TYPE:
            raise hypers.unknown_keyword(cls.__name__, key, known)


class Routed(Parted):
    """Parameter groups with a `type` each, updated by the optimizer of that type; `optc.route` makes it by rules.

    A group has the hypers of its own type, and takes what it does not say from that type's defaults; `defaults` are those that
    all have. Schedulers, gradient scaling (`amp=True`), hooks, closures, copies and `optc.dist` work as for one optimizer, see
    `parted.py`; `parts` has the optimizers by type, for methods of their own. `state_dict` is in torch's layout, and loads
    where the routing is the same.

    Raises ValueError and TypeError as the optimizers do, naming the group, before anything has changed.
    """

    _parts: dict[str, Optimizer]

    def __init__(
        self,
        params: Any,
        *,
        backend: str = "auto",
        maximize: bool = False,
        capturable: bool = False,
        amp: bool = False,
        nonfinite: str = "propagate",
        loss_scale: LossScale | None = None,
    ) -> None:
        self._parts = {}
        self._guard = Guard.of(nonfinite, loss_scale, amp, self)
        self._common: dict[str, Any] = {"backend": backend, "maximize": maximize, "capturable": capturable, "amp": amp}
        if amp:
            self._step_supports_amp_scaling = True
        super().__init__(params, {})

    @property
    def parts(self) -> Mapping[str, Optimizer]:
        """The optimizers by type, each with its groups of this one, for entries such as `update_hessian`.

        Steps and state dicts are those of the whole: a part's own leave out the others, which `optc.export_state` needs.
        """
        self._share()
        return self._parts

    # --- groups --------------------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, whose `type` may be new; what it does not say comes from that optimizer's defaults.

        Raises ValueError and TypeError before anything is added.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"a parameter group must be a dict with `params` and `type`, not a {type(param_group).__name__}")
        number = len(self.param_groups)
        if TYPE not in param_group:
            known = f", such as {' or '.join(map(repr, self._parts))}" if self._parts else ""
            raise ValueError(f"group {number} has no 'type': say which optimizer updates it{known}")
        tag, part = self._part(param_group[TYPE])
        self._share()
        part._numbers = [*self._of(tag), number]
        param_group[TYPE] = tag
        if part._counting is not None and self.param_groups:  # a schedule goes on where those of the others are
            param_group.setdefault(part._counting.key, counter.latest(part._counting, self.param_groups))
        part.add_param_group(param_group)
        before = self.defaults
        self.defaults = _of_all([*self._parts.values(), part])  # torch gives every group what it lacks of these
        try:
            super().add_param_group(param_group)
        except (TypeError, ValueError):
            self.defaults = before
            raise
        self._parts[tag] = part

    def _part(self, given: Any) -> tuple[str, Optimizer]:
        """The optimizer of a type and what it is called here, new if there is none yet."""
        if isinstance(given, str) and given in self._parts:  # it may be a class of one's own, known by its name here alone
            return given, self._parts[given]
        tag, cls = registry.of_type(given)
        for known, part in self._parts.items():
            if type(part) is cls:
                return known, part
        if tag in self._parts:
            raise ValueError(f"two different optimizers are called {tag!r}: give one of them another name")
        part = cls([{"params": []}], **self._common)
        part.param_groups.clear()
        part._shards, part._guard = self._shards, self._guard
        return tag, part

    def _of(self, tag: str) -> list[int]:
        return [number for number, group in enumerate(self.param_groups) if group.get(TYPE) == tag]

    def _share(self) -> list[Optimizer]:
        """Gives every part its groups, the state, the division and the guard as they are now."""
        if not isinstance(self.state, State):
            self.state = State(self.state)
        for number, group in enumerate(self.param_groups):
            if group.get(TYPE) not in self._parts:
                known = " and ".join(map(repr, self._parts))
                raise ValueError(f"group {number} has type {group.get(TYPE)!r}, but the optimizers here are {known}")
        for tag, part in self._parts.items():
            numbers = self._of(tag)
            part._numbers = numbers
            part.param_groups = [self.param_groups[number] for number in numbers]
            part.state, part._shards, part._guard = self.state, self._shards, self._guard
        return list(self._parts.values())

    def _called(self) -> str:
        return type(self).__name__

    # --- updates -------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; returns the closure's loss, if there is a closure: it runs once.

        Raises what the optimizers raise, also where only one of them cannot do its step; then nothing has changed.
        """
        returned, given = loss.of_step(self._share(), closure)
        self._run(given)
        return returned

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def _run(self, given: Sequence[loss.Loss | None]) -> None:
        if self._takes_over("step"):
            return
        parts = self._share()
        scaling = amp.read(self) if self._common["amp"] else amp.Scaling()
        if self._guard is not None:
            scaling = self._guard.before(self.param_groups, told=False, shards=self._shards)
        losses = dict(zip(map(id, parts), given, strict=True))
        steps.together(parts, lambda part: part._ready("step", None, losses[id(part)], scaling))
        if self._guard is not None:
            self._guard.after(self.last_step_skipped, self.param_groups, self._shards)

    @property
    def last_step_skipped(self) -> bool | Tensor:
        """Whether the last step did nothing, as the scaler had found inf or NaN; a 0-dim tensor if only the device knows."""
        seen = [part.last_step_skipped for part in self._parts.values()]
        return next((skipped for skipped in seen if isinstance(skipped, bool)), seen[0])

    # --- state ---------------------------------------------------------------------------------------------------------------

    def init_state(self) -> None:
        """Creates the state of every parameter as a first step would, without a step: something to load a checkpoint into."""
        for part in self._share():
            part.init_state()

    def _fits(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """The routing must be the same."""
        theirs, ours = ([group.get(TYPE) for group in found] for found in (saved, self.param_groups))
        if theirs != ours:
            said = ", ".join(map(str, theirs)) if any(theirs) else "no types"
            own = ", ".join(map(str, ours))
            raise ValueError(f"the loaded state dict has groups of {said}, this optimizer of {own}: route both in the same way")

    def __getstate__(self) -> dict[str, Any]:
        self._share()
        kept: dict[str, Any] = {"_parts": self._parts, "_common": self._common, "_guard": self._guard}
        if self._common["amp"]:
            kept["_step_supports_amp_scaling"] = True
        return {**super().__getstate__(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "state": State(state["state"])} if "state" in state else state)


def _of_all(parts: Sequence[Optimizer]) -> dict[str, Any]:
    """The defaults that all have, as the first one has them."""
    return {key: value for key, value in parts[0].defaults.items() if all(key in part.defaults for part in parts)}
