"""The base class of every generated optimizer: a `torch.optim.Optimizer` whose arithmetic is a compiled schema."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from optc.runtime import (
    amp,
    choose,
    counter,
    divisible,
    exchange,
    hypers,
    locality,
    loss,
    model,
    participants,
    plans,
    registry,
    steps,
    watched,
)
from optc.runtime import state as states
from optc.runtime.exchange import Exchange
from optc.runtime.guard import Guard, Watch
from optc.runtime.loss_scale import LossScale
from optc.runtime.parted import Parted
from optc.runtime.participants import Given, Participants
from optc.runtime.repeat import Repeat
from optc.runtime.revive import bare
from optc.runtime.schema import Hyper, Procedure, Schema
from optc.runtime.steps import Ready
from optc.runtime.watched import State


class Optimizer(Parted):
    """Runs `schema` over parameter groups.

    `backend`: "auto", "torch", "native" (CPU) or "triton" (GPU). `maximize` and `capturable` mean what they mean in torch;
    `capturable` counts on the device and needs Triton. With `amp` a `GradScaler` leaves unscaling and skipping to `step`.
    `nonfinite` says what a step does where a gradient is inf or NaN: "propagate" it as the equations do, "skip" the step, or
    "raise" FloatingPointError with the parameters' names, both with nothing changed. With a `loss_scale` gradients are divided
    by it, and steps that overflow are skipped.

    A parameter's step count `state[p]["step"]` is one tensor, shared by all parameters with the same history; `state_dict()`
    gives each its own copy. States are float32 (float64 for float64 parameters), in the memory order of the parameter.

    Raises ValueError for hypers out of range and for parameters that cannot be optimized, TypeError for unknown keywords, all
    before anything has changed; `BackendUnavailable` at the first step if a backend asked for by name cannot run.
    """

    schema: ClassVar[Schema]
    _counting: ClassVar[Hyper | None] = None
    spec_text: ClassVar[str | None] = None
    """The spec of a class made by `optc.compile`, which no other process could import."""

    _numbers: Sequence[int] | None = None
    """What errors call the groups, and the next one, where they are some of another optimizer's."""

    _plans: dict[int, dict[str, plans.Plan]]
    _exchanges: dict[str, Exchange | None]
    _given: set[int]
    _readers: list[hypers.Reader]
    _settled: tuple[State | None, int]
    _repeat: Repeat | None
    _skipped: bool | Tensor
    _square_sum: Tensor | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Finds the hyper that counts steps, which every step asks for."""
        super().__init_subclass__(**kwargs)
        if "schema" in cls.__dict__:
            cls._counting = counter.of(cls.schema)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Turns down misspelt keywords, with a hint."""
        known = inspect.signature(cls.__init__).parameters
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
            for key in kwargs:
                if key not in known:
                    raise hypers.unknown_keyword(cls.__name__, key, [name for name in known if name != "self"])
        return super().__new__(cls)

    def __init__(
        self,
        params: Any,
        defaults: Mapping[str, Any],
        *,
        backend: str = "auto",
        maximize: bool = False,
        capturable: bool = False,
        amp: bool = False,
        nonfinite: str = "propagate",
        loss_scale: LossScale | None = None,
    ) -> None:
        if backend not in choose.CHOICES:
            raise ValueError(f"backend = {backend!r}, but it must be one of {', '.join(map(repr, choose.CHOICES))}")
        self.backend = cast(choose.Choice, backend)
        self._forget()
        self._scales = amp
        self._guard = Guard.of(nonfinite, loss_scale, amp, self)
        if amp:
            self._step_supports_amp_scaling = True
        super().__init__(params, {**defaults, "maximize": maximize, "capturable": capturable})
        self.state = State()

    def _share(self) -> Sequence[Optimizer]:
        return [self]

    def _called(self) -> str:
        return self.schema.name

    # --- groups --------------------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; what it does not say comes from the defaults. Raises before anything is added."""
        label = self._label(len(self.param_groups))
        if isinstance(param_group, dict):
            if self._counting is not None and self.param_groups:
                param_group.setdefault(self._counting.key, counter.latest(self._counting, self.param_groups))
            if self._numbers is None and "type" in param_group:
                registry.require_type(self.schema, param_group["type"], label)
            hypers.validate_group(self.schema, self.defaults, param_group, label)
        super().add_param_group(param_group)
        try:
            participants.admit(self.schema, param_group, label, self._shards)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._given.update(map(id, param_group["params"]))

    @classmethod
    def refuses_release(cls) -> str | None:
        """Why `optc.release` refuses this optimizer where hypers are not given, in words; None where it does not."""
        return locality.refusal(cls.schema, cls.schema.defaults)

    def _label(self, index: int) -> str:
        """What errors call a group."""
        return f"group {index if self._numbers is None else self._numbers[index]}"

    # --- updates -------------------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; returns the closure's loss, if there is a closure.

        Raises ValueError for hypers out of range and gradients that cannot be used, TypeError where the update reads the loss
        and there is no closure, or one that returns no number; then nothing has changed.
        """
        asks = closure is not None or self._repeat is None  # a step that can be repeated reads no loss
        returned, (read,) = loss.of_step([self], closure) if asks else (None, (None,))
        repeat = None if torch.compiler.is_dynamo_compiling() else self._repeat
        if repeat is None or not repeat.run(self):
            self._step(read)
        return returned

    @torch.no_grad()
    def _step(self, read: loss.Loss | None) -> None:
        """A step by the long way."""
        self._run("step", None, read)

    @torch.no_grad()
    def _enter(self, name: str, inputs: Mapping[str, Given]) -> None:
        """Runs an entry; counts stay. Generated methods call it."""
        self._run(name, inputs)

    @property
    def last_step_skipped(self) -> bool | Tensor:
        """Whether the last step did nothing, as the scaler had found inf or NaN; a 0-dim tensor if only the device knows."""
        return self._skipped > 0 if isinstance(self._skipped, Tensor) else self._skipped

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def _run(self, name: str, inputs: Mapping[str, Given] | None, given: loss.Loss | None = None) -> None:
        """Validates everything, then builds and compiles what is missing, then updates."""
        if self._takes_over(name):
            return
        guard = self._guard if name == "step" else None
        scaling = amp.read(self) if self._scales else amp.Scaling()
        if guard is not None:
            scaling = guard.before(self.param_groups, self._told(), self._shards)
        (work,) = steps.together([self], lambda optimizer: optimizer._ready(name, inputs, given, scaling), name)
        if guard is not None:
            guard.after(self._skipped, self.param_groups, self._shards)
        if name == "step":
            self._repeat = Repeat.of(self, work)

    def _told(self) -> bool:
        """Whether the step itself finds out that a gradient is not finite, before it has changed anything."""
        return self.schema.square_sum is not None and not any(map(self._counts_on_device, self.param_groups))

    def _watch(self) -> None:
        """Drops plans where somebody else has changed the state."""
        if not isinstance(self.state, State):
            self.state = State(self.state)
        if not self._is_settled():
            self._plans.clear()

    def _is_settled(self) -> bool:
        """Whether the state is as it was when plans were made to fit it."""
        return self.state is self._settled[0] and self.state.changes.count == self._settled[1]

    def _settle(self) -> None:
        """Plans fit the state as it is now."""
        self._settled = watched.settled(self.state)

    def _ready(self, name: str, inputs: Mapping[str, Given] | None, given: loss.Loss | None, scaling: amp.Scaling) -> Ready:
        """Does everything of a step or entry that may fail; if it does, nothing has changed."""
        procedure = self.schema.procedure(name)
        on_device = [self._counts_on_device(group) for group in self.param_groups]
        if self._counting is not None:
            counter.on_devices(self._counting, self.param_groups, on_device)
        values = self._values(on_device)
        present = self._present(name)
        try:
            return self._prepared(procedure, inputs, given, scaling, on_device, values, present)
        except BaseException:
            steps.release(present)
            raise

    def _values(self, on_device: Sequence[bool]) -> list[hypers.Values]:
        """Every group's hypers, the same objects as before where nothing has changed. Raises ValueError."""
        self._readers += [hypers.Reader(self.schema) for _ in self.param_groups[len(self._readers) :]]
        values = [self._read(index, there) for index, there in enumerate(on_device)]
        hypers.require_shared(self.schema, values)
        return values

    def _read(self, index: int, on_device: bool) -> hypers.Values:
        """A group's hypers. Raises ValueError that names the group, if there are others."""
        group = self.param_groups[index]
        device = next((self._shards.here(p).device for p in group["params"]), None) if on_device else None
        try:
            return self._readers[index].read(group, device)
        except ValueError as error:
            if len(self.param_groups) == 1 and self._numbers is None:
                raise
            raise ValueError(f"{error} ({hypers.named(self._label(index), group)})") from None

    def _prepared(
        self,
        procedure: Procedure,
        inputs: Mapping[str, Given] | None,
        given: loss.Loss | None,
        scaling: amp.Scaling,
        on_device: Sequence[bool],
        values: Sequence[hypers.Values],
        present: Sequence[plans.Plan | None],
    ) -> Ready:
        """`present` are the groups' plans from earlier steps, as far as there are any."""
        name = procedure.name
        labels = [self._label(index) for index in range(len(self.param_groups))]
        finders = participants.finders(procedure, self.param_groups, labels, inputs, self._shards)
        taking: list[Participants] = []
        places: list[Sequence[int] | None] = []
        for group, plan, read, counting, find in zip(self.param_groups, present, values, on_device, finders, strict=True):
            usable = plan is not None and plan.counting == counting
            found, where = plan.look(group["params"], read, find) if plan is not None and usable else (find(), None)
            taking.append(found)
            places.append(where)
        for index, group in enumerate(self.param_groups):
            if places[index] is None:
                participants.check(taking[index].parameters, taking[index].varying, group, self._label(index), self._shards)
        self._skipped = False
        edits = states.Edits(self.state)
        gathers = model.gathers(procedure)
        before = model.kept(self.schema, self.param_groups) if gathers else ()
        if scaling.found_inf is not None:
            if None in places or not all(on_device):
                self._skipped = scaling.overflowed()
                if self._skipped:
                    return Ready(self, procedure, present, None, (), edits, before)
            else:
                self._skipped = scaling.found_inf
        try:
            updates = []
            for index, group in enumerate(self.param_groups):
                factor = scaling.factor(-1.0 if group.get("maximize", False) else 1.0, on_device[index])
                if places[index] is None:
                    self._build(procedure, index, taking[index], factor, values[index], on_device[index], edits)
                plan = self._plans[index][name]
                where = places[index]
                now = plan.turn.places if where is None else where
                updates.append(plan.ready(taking[index], now, edits, factor, scaling.found_inf, self._readers[index].tensors))
            if None in places:
                self._exchanges[name] = exchange.of(self.schema, procedure, self.param_groups, values, self._shards)
            gatherings = steps.gatherings(self.schema, self.param_groups, values, updates, given) if gathers else ()
        except BaseException:
            edits.undo()
            self._plans.clear()
            raise
        watched = name == "step" and self._guard is not None and scaling.found_inf is None
        watch = Watch(self.param_groups, self._shards) if watched and self.schema.square_sum is not None else None
        finding = None in places, scaling.found_inf, watch, self._exchanges[name]
        return Ready(self, procedure, present, updates, gatherings, edits, before, *finding)

    def _ran(self, name: str, edited: bool, found_inf: Tensor | None) -> None:
        """Counts the step, and drops plans that were for it alone, and others where the state has got new tensors."""
        if self._counting is not None and name == "step":
            counter.count(self._counting, self.param_groups, found_inf)
        for built in self._plans.values():
            if name in built and built[name].once:
                del built[name]
        if edited:
            self._plans = {index: {name: built[name]} for index, built in self._plans.items() if name in built}

    def _present(self, name: str) -> list[plans.Plan | None]:
        return [self._plan(index, name) for index in range(len(self.param_groups))]

    def _plan(self, index: int, name: str) -> plans.Plan | None:
        return self._plans.get(index, {}).get(name)

    def _build(
        self,
        procedure: Procedure,
        index: int,
        taking: Participants,
        factor: float | Tensor,
        values: hypers.Values,
        on_device: bool,
        edits: states.Edits,
    ) -> None:
        """Builds a group's plan."""
        group = self.param_groups[index]["params"]
        divisible.require_own_shapes(self.schema, group, self._given)
        prepare = functools.partial(choose.prepare, self.backend)
        counting = self.backend if on_device else None
        before = sum(len(earlier["params"]) for earlier in self.param_groups[:index])
        request = plans.Request(self.schema, procedure, group, taking, factor, values, prepare, counting, before, self._shards)
        plan = plans.build(request, edits)
        self._plans.setdefault(index, {})[procedure.name] = plan

    def _counts_on_device(self, group: Mapping[str, Any]) -> bool:
        capturable = bool(group.get("capturable", False))
        if not capturable and not self._scales and self._guard is None:
            return False
        here = {self._shards.here(p).device for p in group["params"]}
        whole = not any(map(self._shards.divides, group["params"]))
        return capturable or (whole and all(choose.can_count_on(self.backend, device) for device in here))

    # --- state ---------------------------------------------------------------------------------------------------------------

    def init_state(self) -> None:
        """Creates the state of every parameter as a first step would, without a step: something to load a checkpoint into.

        States that start from the gradient start from zeros where there is none.
        """
        for index, group in enumerate(self.param_groups):
            values = hypers.validate(self.schema, group)
            participants.check(group["params"], {}, group, self._label(index), self._shards)
            for p in group["params"]:
                if p.requires_grad:
                    sign = -1.0 if group["maximize"] else 1.0
                    states.initialise(states.Edits(self.state), self.schema, values, p, sign, self._shards)
        first = next((self._shards.here(p) for group in self.param_groups for p in group["params"] if p.requires_grad), None)
        if first is not None:
            model.settle(self.schema, hypers.validate(self.schema, self.param_groups[0]), self.param_groups, first.device)

    def state_dict(self) -> dict[str, Any]:
        """In torch's layout; step counts and host states are copies of their own."""
        if self._numbers is None:
            return super().state_dict()
        shared = self.state  # with parameters of others
        self.state = State({p: shared[p] for group in self.param_groups for p in group["params"] if p in shared})
        try:
            return super().state_dict()
        finally:
            self.state = shared

    def _fits(self, saved: Sequence[Mapping[str, Any]]) -> None:
        if self._numbers is not None:
            raise ValueError(f"this {self.schema.name} is one of several optimizers in one: load a state dict of the whole")

    def __reduce__(self) -> tuple[Any, ...]:
        return (bare, (type(self) if self.spec_text is None else self.spec_text,), self.__getstate__())

    def __getstate__(self) -> dict[str, Any]:
        kept = {"backend": self.backend, "_scales": self._scales, "_guard": self._guard}
        if self._scales:
            kept["_step_supports_amp_scaling"] = True
        return {**super().__getstate__(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "state": State(state["state"])} if "state" in state else state)
        self._forget()
        for group in self.param_groups:
            for key in (*[hyper.key for hyper in self.schema.hypers], "maximize", "capturable"):
                group.setdefault(key, self.defaults[key])

    def _forget(self) -> None:
        """Drops what is derived from groups and state."""
        self._plans, self._exchanges = {}, {}
        self._given = {id(p) for group in getattr(self, "param_groups", ()) for p in group["params"]}
        self._readers, self._repeat = [], None
        self._settled = None, -1
        self._skipped = False
        self._square_sum = None
