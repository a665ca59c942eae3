"""Gradient release: every parameter is updated while the gradients arrive, as soon as its own is there, and the gradient freed.

The arithmetic is that of the step, to the bit: a parameter has a plan for itself, its own step count, and the place among all
parameters that random numbers are drawn by. What needs all gradients at once is refused, as the schema tells.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from optc.runtime import choose, counter, hypers, locality, names, participants, plans, steps, updates
from optc.runtime import state as states
from optc.runtime.hooked import Hooked
from optc.runtime.model import gathers
from optc.runtime.schema import Procedure, Schema
from optc.runtime.sharding import is_divided
from optc.runtime.watched import State, settled

if TYPE_CHECKING:
    from optc.runtime.optimizer import Optimizer


class Releasable(Hooked):
    """What optimizers that `Release` can take over have in common."""

    _released: Release | None = None

    def _share(self) -> Sequence[Optimizer]:
        """The parts, each with its groups, the state, the division and the guard as they are now; see `parted.py`."""
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch. Under gradient release, an accumulation that has not updated anything yet starts over."""
        super().zero_grad(set_to_none)
        if self._released is not None:
            self._released.start_over()

    def _takes_over(self, name: str) -> bool:
        """Whether gradient release does this step; raises RuntimeError for an entry in the middle of one."""
        released = self._released
        if released is None:
            return False
        if name == "step":
            released.end()
            return True
        released.refuse_entry(name)
        return False


class _Alone(MutableMapping[Tensor, dict[str, Any]]):
    """The optimizer's state as if one parameter were all it has: nobody else shares that parameter's tensors."""

    def __init__(self, state: MutableMapping[Tensor, dict[str, Any]], p: Tensor) -> None:
        self._state = state
        self._p = p

    def __getitem__(self, p: Tensor) -> dict[str, Any]:
        return self._state[p]

    def __setitem__(self, p: Tensor, slot: dict[str, Any]) -> None:
        self._state[p] = slot

    def __delitem__(self, p: Tensor) -> None:
        del self._state[p]

    def __iter__(self) -> Iterator[Tensor]:
        return iter([self._p] if self._p in self._state else [])

    def __len__(self) -> int:
        return int(self._p in self._state)

    def get(self, p: Tensor, default: Any = None) -> Any:
        """Makes no slot."""
        return self._state.get(p, default)


@dataclass(frozen=True, slots=True)
class _Group:
    """A group in this step, with its hypers as they were when the first parameter was updated.

    `of_model`: its step has programs of the model, though with these hypers none of them adds anything up.
    """

    optimizer: Optimizer
    group: dict[str, Any]
    label: str
    values: hypers.Values
    factor: float
    procedure: Procedure
    of_model: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """A parameter's plan, and what it was made for: an optimizer's schema, and the place among its parameters."""

    plan: plans.Plan
    schema: Schema
    place: int


class Release:
    """Parameters of an optimizer are updated during the backward pass; `optc.release` makes it.

    It ends with `remove()`, or as a context manager. Copies and pickles of the optimizer are not released.
    """

    def __init__(self, optimizer: Releasable, accumulate: int = 1, *, local: bool = False) -> None:
        if not isinstance(optimizer, Releasable):
            raise names.not_ours("optc.release", optimizer)
        if optimizer._released is not None:
            raise ValueError("this optimizer is released already: remove() that release first")
        self._optimizer = optimizer
        self._local = local
        self._lock = threading.RLock()
        self._handles: dict[int, tuple[Tensor, Any]] = {}
        self._plans: dict[int, _Plan] = {}
        self._settled: tuple[State | None, int] = (None, -1)
        self._round = 0
        self._reset()
        self.accumulate = accumulate
        for part in self._parts():
            for values in self._values(part):
                locality.require(part, values)
            part._plans.clear()
        self._require_local()
        self._cover()

    # --- what users call -----------------------------------------------------------------------------------------------------

    @property
    def accumulate(self) -> int:
        """After how many backward passes parameters are updated. May be set until the last of them begins."""
        return self._accumulate

    @accumulate.setter
    def accumulate(self, passes: int) -> None:
        if not isinstance(passes, int) or isinstance(passes, bool) or passes < 1:
            raise ValueError(f"accumulate = {passes!r}, but it must be a whole number of backward passes, at least 1")
        if self._updated:
            raise RuntimeError("accumulate cannot change now: parameters of this step are updated already; call step() first")
        if passes < self._passes:
            raise ValueError(f"accumulate = {passes}, but there were {self._passes} backward passes since the last step()")
        self._accumulate = passes

    def remove(self) -> None:
        """From now on `step` updates everything, as before; gradients that are there stay, so it ends a step, too."""
        for _, handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        self._plans.clear()
        for part in [self._optimizer, *self._parts()]:
            if part._released is self:
                part._released = None
        self._reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def start_over(self) -> None:
        """Forgets the backward passes since the last step, unless parameters were updated already."""
        if not self._updated:
            self._reset()

    # --- a step --------------------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        """No backward pass since the last step."""
        self._round += 1
        self._passes = 0
        self._in_pass = False
        self._updated: set[int] = set()
        self._groups: dict[int, _Group] = {}
        self._places: dict[int, tuple[_Group, int]] = {}

    def _parts(self) -> Sequence[Optimizer]:
        """The optimizers, with the groups and the state that they have now: several where it is routed."""
        return self._optimizer._share()

    @staticmethod
    def _values(part: Optimizer) -> Sequence[hypers.Values]:
        return part._values([False] * len(part.param_groups))

    def _cover(self) -> None:
        """A hook for every parameter that can get a gradient, none for those that have left."""
        parts = self._parts()
        for part in [self._optimizer, *parts]:
            part._released = self
        present = {id(p): p for part in parts for group in part.param_groups for p in group["params"]}
        for gone in self._handles.keys() - present.keys():
            self._handles.pop(gone)[1].remove()
            self._plans.pop(gone, None)
        me = weakref.ref(self)

        def hook(p: Tensor) -> None:
            release = me()
            if release is not None:
                release._arrived(p)

        for at, p in present.items():
            if p.requires_grad and at not in self._handles:
                self._handles[at] = p, p.register_post_accumulate_grad_hook(hook)

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def _arrived(self, p: Tensor) -> None:
        """The hook. On several devices autograd calls it from several threads."""
        with self._lock, torch.no_grad():
            if p.grad is None:
                return
            if not self._in_pass:
                if self._passes == self._accumulate:
                    raise RuntimeError(
                        f"backward pass {self._passes + 1} since the last step(), but gradients are released after "
                        f"{self._accumulate}: call step() after every {self._accumulate}, or release with another `accumulate` "
                        "(checkpoints with use_reentrant=True run passes of their own: use False)"
                    )
                self._in_pass = True
                done = functools.partial(self._passed, self._round)
                torch.autograd.Variable._execution_engine.queue_callback(done)
            if self._passes + 1 < self._accumulate:
                return
            if not self._groups:
                self._begin()
            if id(p) in self._updated:
                raise RuntimeError(
                    f"a parameter of shape {tuple(p.shape)} got a second gradient in a step, after it was updated with the "
                    "first: call step() after the backward pass that updates (checkpoints need use_reentrant=False)"
                )
            if id(p) in self._places:
                self._update(p, *self._places[id(p)])
                self._updated.add(id(p))

    def _passed(self, round_: int) -> None:
        """Autograd calls it at the end of a backward pass."""
        if round_ == self._round:
            self._in_pass = False
            self._passes += 1

    def _require_local(self) -> None:
        world = torch.distributed
        parts = self._parts()
        if any(part._shards.everywhere for part in parts):
            raise ValueError("gradients cannot be released under ZeRO 1, which sends all parameters after a step")
        divided = all(is_divided(p) for part in parts for group in part.param_groups for p in group["params"])
        if self._local or divided:  # FSDP2 has averaged them by then
            return
        if world.is_available() and world.is_initialized() and world.get_world_size() > 1:
            raise ValueError(
                f"gradients cannot be released among {world.get_world_size()} processes: DistributedDataParallel averages them "
                "after they are accumulated, so that every process would update with its own; where nothing averages them, "
                "say local=True"
            )

    def _begin(self) -> None:
        """Validates everything that can be before the first parameter of a step is updated; changes nothing where it raises."""
        parts = self._parts()
        self._require_local()
        groups: dict[int, _Group] = {}
        places: dict[int, tuple[_Group, int]] = {}
        for part in parts:
            part._watch()
            procedure = part.schema.procedure("step")
            of_model = gathers(procedure)
            before = 0
            for index, (group, values) in enumerate(zip(part.param_groups, self._values(part), strict=True)):
                locality.require(part, values)
                factor = -1.0 if group.get("maximize", False) else 1.0
                found = _Group(part, group, part._label(index), values, factor, procedure, of_model)
                groups[id(group)] = found
                places.update((id(p), (found, before + place)) for place, p in enumerate(group["params"]))
                before += len(group["params"])
        for at, known in self._groups.items():
            if at in groups and groups[at].values != known.values:
                raise RuntimeError(
                    f"hypers of {known.label} changed after the backward pass had updated parameters with the old ones: change "
                    "them between step() and backward()"
                )
        self._groups, self._places = groups, places

    def _update(self, p: Tensor, at: _Group, place: int) -> None:
        """Updates one parameter and lets go of its gradient. Where it raises, that parameter is as it was."""
        optimizer = at.optimizer
        state = optimizer.state
        if not isinstance(state, State) or state is not self._settled[0] or state.changes.count != self._settled[1]:
            self._forget()
        schema, procedure, label = optimizer.schema, at.procedure, at.label
        known = self._plans.get(id(p))
        plan = known.plan if known is not None and known.schema is schema and known.place == place else None
        find = functools.partial(participants.of_one, p, at.group, label, optimizer._shards)
        edits = states.Edits(_Alone(optimizer.state, p))
        try:
            taking, where = (find(), None) if plan is None else plan.look([p], at.values, find)
            if plan is None or where is None:
                participants.check(taking.parameters, taking.varying, at.group, label, optimizer._shards)
                prepare = functools.partial(choose.prepare, optimizer.backend)
                request = plans.Request(
                    schema, procedure, [p], taking, at.factor, at.values, prepare, None, place, optimizer._shards
                )
                plan = plans.build(request, edits)
                where = plan.turn.places
                self._plans[id(p)] = _Plan(plan, schema, place)
            update = plan.ready(taking, where, edits, at.factor, None, {})
            gatherings = steps.gatherings(schema, [at.group], [at.values], [update], None) if at.of_model else ()
        except BaseException:
            edits.undo()
            self._plans.pop(id(p), None)
            self._settled = None, -1
            raise
        for _ in updates.run(procedure, [update], gatherings):
            pass
        plan.release()
        if plan.once:
            del self._plans[id(p)]
        if edits and isinstance(state, State) and self._settled[1] >= 0:
            self._settled = state, state.changes.count
        p.grad = None

    def _forget(self) -> None:
        """Somebody else has changed the state: drops the plans, and gives each parameter a step count for itself."""
        self._plans.clear()
        taken: set[int] = set()
        for at in self._groups.values():
            schema, state = at.optimizer.schema, at.optimizer.state
            for slot in [state[p] for p in at.group["params"] if p in state]:
                for key in (states.STEP, *(kept.key for kept in schema.of_parameters if kept.host)):
                    entry = slot.get(key)
                    if isinstance(entry, Tensor):
                        if id(entry) in taken:
                            slot[key] = entry = entry.clone()
                        taken.add(id(entry))
        self._settled = settled(self._optimizer.state)

    def end(self) -> None:
        """What `step` does: updates what has a gradient still, and counts the step.

        Raises RuntimeError in the middle of an accumulation, and where hypers changed after parameters were updated.
        """
        with self._lock:
            done = self._passes + self._in_pass
            if 0 < done < self._accumulate:
                raise RuntimeError(
                    f"step() after {done} of {self._accumulate} backward passes: call it after the last one, or set "
                    "`accumulate` of the release to fewer; zero_grad() starts over"
                )
            self._begin()
            for group in self._groups.values():
                for p in group.group["params"]:
                    if p.grad is not None:
                        self._update(p, *self._places[id(p)])
            for part in self._parts():
                part._skipped = False
                if part._counting is not None:
                    counter.count(part._counting, part.param_groups)
            self._reset()
            self._cover()

    def refuse_entry(self, name: str) -> None:
        """Raises RuntimeError where a backward pass has updated parameters and the step has not ended."""
        if self._groups or self._passes or self._in_pass:
            raise RuntimeError(
                f"{name}() after a backward pass that released its gradients, before step(): compute what it needs with "
                "torch.autograd.grad, which accumulates nothing, or before the release"
            )
