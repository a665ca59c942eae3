"""A plan: how the parameters of one group go through one procedure. Built when something changed, then reused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, is_
from typing import TypeAlias

import torch
from torch import Tensor

from optc.runtime import checks, divisible, layout, rows, shapes
from optc.runtime import state as states
from optc.runtime.backend import arithmetic_dtype
from optc.runtime.batches import Binding, Members, Prepare
from optc.runtime.capturable import DeviceBatch, bind
from optc.runtime.choose import Choice
from optc.runtime.codebook import Codebook
from optc.runtime.columns import Column, Gradients
from optc.runtime.draws import draws, first_element
from optc.runtime.hypers import Facts, Values, holds
from optc.runtime.pairs import REST
from optc.runtime.participants import Participants
from optc.runtime.schema import Procedure, Schema, State
from optc.runtime.sharding import PLACEMENTS, Runs, Shards, local
from optc.runtime.statics import Statics
from optc.runtime.survey import Survey
from optc.runtime.turns import Cast, Turn
from optc.runtime.updates import Update

Form: TypeAlias = tuple[torch.dtype, torch.Size]

_THETA = "theta"
_form_of: Callable[[Tensor], Form] = attrgetter("dtype", "shape")
_address: Callable[[Tensor], int] = Tensor.data_ptr
_strides_of: Callable[[Tensor], tuple[int, ...]] = Tensor.stride


@dataclass(frozen=True, slots=True)
class Guards:
    """What must not have changed since the plan was built, where Python has to look: cheap passes over thousands of tensors.

    By place in the plan. Strides count too, as `p.data = p.data.t()` keeps address and size; None stands for those of
    contiguous parameters. `residents` are the states: `state.data = …` leaves the tensor and takes its memory away.
    """

    pointers: list[int]
    strides: list[tuple[int, ...]] | None
    forms: Mapping[str, list[Form]]
    residents: list[Tensor]
    memories: list[int]

    @staticmethod
    def of(here: Sequence[Tensor], roster: Sequence[Tensor], taking: Participants, residents: Sequence[Tensor]) -> Guards:
        """The present ones; gradients that are not there are expected in their parameter's dtype. `here`: see `Cast`."""
        forms = {_THETA: list(map(_form_of, here))}
        for name, column in taking.varying.items():
            found = dict(zip(map(id, taking.parameters), map(_form_of, column), strict=True))
            forms[name] = [found.get(id(p), form) for p, form in zip(roster, forms[_THETA], strict=True)]
        strides = None if layout.all_contiguous(here) else list(map(_strides_of, here))
        return Guards(list(map(_address, here)), strides, forms, list(residents), list(map(_address, residents)))

    def hold(self, taking: Participants, here: Sequence[Tensor], places: Sequence[int]) -> bool:
        """Whether memories, dtypes and shapes are the ones the plan was built for."""
        return (
            self.stay(here, places)
            and list(map(_address, self.residents)) == self.memories
            and all(self._forms_hold(name, column, places) for name, column in taking.varying.items())
        )

    def stay(self, parameters: Sequence[Tensor], places: Sequence[int]) -> bool:
        """Whether these parameters of the plan are as they were."""
        return (
            list(map(_address, parameters)) == [self.pointers[i] for i in places]
            and self._forms_hold(_THETA, parameters, places)
            and self._strides_hold(parameters, places)
        )

    def _forms_hold(self, name: str, column: Column, places: Sequence[int]) -> bool:
        return list(map(_form_of, column)) == [self.forms[name][i] for i in places]

    def _strides_hold(self, parameters: Sequence[Tensor], places: Sequence[int]) -> bool:
        if self.strides is None:
            return layout.all_contiguous(parameters)
        return list(map(_strides_of, parameters)) == [self.strides[i] for i in places]


@dataclass(frozen=True, slots=True)
class Request:
    """What a plan is built from: a group, and those of its parameters that take part.

    `counting`: the backend's name where counts are kept on the device. `before`: parameters of earlier groups. `shards` says
    what of them this process has.
    """

    schema: Schema
    procedure: Procedure
    group: Sequence[Tensor]
    taking: Participants
    factor: float | Tensor
    values: Values
    prepare: Prepare
    counting: Choice | None
    before: int = 0
    shards: Shards = PLACEMENTS


@dataclass(slots=True)
class Plan:
    """Kernels bound to a cast; a turn says who of it takes part. `survey` looks where it can, else `guards`.

    `once`: some states were created, and the host program asks about that, so that the plan is for this step only. On a device
    that counts (`device_batches`) all take part, always. `_seen` is what the survey saw when the turn began, `_present` now.
    """

    schema: Schema
    procedure: Procedure
    counting: bool
    cast: Cast
    place_of: Mapping[int, int]
    contiguous: bool
    bindings: list[Binding]
    device_batches: list[DeviceBatch]
    statics: Statics
    static: object
    once: bool
    values: Values
    guards: Guards
    survey: Survey | None
    turn: Turn
    shards: Shards
    _seen: bytes = b""
    _present: bytes = b""
    _misses: int = 0

    def look(
        self, group: Sequence[Tensor], values: Values, find: Callable[[], Participants]
    ) -> tuple[Participants, Sequence[int] | None]:
        """Who takes part in this step, and their places; None for these if the plan must be built anew. `find` looks in Python.

        Gradients found by the survey stay alive until `release`.
        """
        fits = self.fits(values)
        surveyed = self.surveyed(group) if fits else None
        if surveyed is not None:
            places = self.turn.places
            if surveyed.parameters is not self.turn.parameters:
                places = [self.place_of[id(p)] for p in surveyed.parameters]
            return surveyed, places if self._may_run(places) else None
        self._present = b""
        taking = find()
        found = self._places(taking.parameters) if fits else None
        if found is None or not self.guards.hold(taking, list(map(self.shards.here, taking.parameters)), found):
            return taking, None
        self._survey_anew(group)
        return taking, found

    def surveyed(self, group: Sequence[Tensor]) -> Participants | None:
        """Who has a gradient, the turn's own parameters if it is they; None where Python has to look.

        The gradients stay alive until `release`.
        """
        sight = self.survey.look(group) if self.survey is not None else None
        if sight is None:
            return None
        self._present, parameters = sight.present, self.turn.parameters
        if sight.present != self._seen:
            parameters = [p for p, there in zip(group, sight.present, strict=True) if there]
        return Participants(parameters, {"g": Gradients(parameters, sight.addresses)}, False, arranged=True)

    def fits(self, values: Values) -> bool:
        """Whether the plan's kernels and states are those for these hypers. Raises ValueError where none could be."""
        if values is self.values:
            return True
        self._pick_the_same(values)
        fits = self.statics.agree(values, self.values) or self.statics.of(values) == self.static
        if fits:
            self.values = values
        return fits

    def _pick_the_same(self, values: Values) -> None:
        """Raises ValueError where other elements would be picked than those that states were made of."""
        name = self.schema.pick
        if name is not None and values[name] != self.values[name] and self.cast.parameters:
            key = next(hyper.key for hyper in self.schema.hypers if name in hyper.names)
            raise ValueError(
                f"{key} was {self.values[name]:g} when the states of picked elements were made, and cannot become "
                f"{values[name]:g}: change it before the first step, or delete the entries in `state`"
            )

    def _survey_anew(self, group: Sequence[Tensor]) -> None:
        """What stopped the survey may last: another order of the group, a frozen parameter moved. Tried ever more rarely.

        It vouches for all of the cast, so all must be as they were, not only those that take part now.
        """
        if self.survey is not None:
            self._misses += 1
            roster = self.cast.parameters
            if self._misses & (self._misses - 1) == 0 and self.guards.stay(roster, range(len(roster))):
                expected = [id(p) in self.place_of for p in group]
                self.survey = Survey.of(group, expected, self.guards.residents) or self.survey

    def _places(self, parameters: Sequence[Tensor]) -> Sequence[int] | None:
        """None where one is not in the cast, or more would have to be."""
        known = self.turn.parameters
        if len(parameters) == len(known) and all(map(is_, parameters, known)):
            return self.turn.places
        places = [self.place_of.get(id(p), -1) for p in parameters]
        return places if -1 not in places and self._may_run(places) else None

    def _may_run(self, places: Sequence[int]) -> bool:
        return not self.device_batches or list(places) == list(range(len(self.cast.parameters)))

    def release(self) -> None:
        """Lets go of gradients."""
        if self.survey is not None:
            self.survey.release()

    def ready(
        self,
        taking: Participants,
        places: Sequence[int],
        edits: states.Edits,
        factor: float | Tensor,
        found_inf: Tensor | None,
        tensors: Mapping[str, Tensor],
    ) -> Update:
        """Does all that may fail (host programs, copies of gradients); what is left is to run the update.

        `tensors` are the hypers that live on the device.
        """
        if places is not self.turn.places and list(places) != list(self.turn.places):
            self.turn = self.cast.turn(places, self.schema, self.procedure, self.bindings, edits, {})
        self._seen = self._present
        turn, varying = self.turn, taking.varying
        if not taking.arranged and not (self.contiguous and taking.contiguous):
            varying = {name: _arranged(column, turn.thetas) for name, column in varying.items()}
        varying = {name: turn.resolved(column) for name, column in varying.items()}
        outcomes, launches = turn.evaluate(self.procedure, self.values)
        for batch in self.device_batches:
            batch.ready(self.values)
        return Update(self.procedure, turn, varying, outcomes, launches, self.device_batches, factor, found_inf, tensors)


def _arranged(column: Column, thetas: Sequence[Tensor]) -> list[Tensor]:
    """Gradients or inputs in the memory order of their parameters; copies only what is not."""
    return [layout.arranged(x, theta, x.dtype) for x, theta in zip(column, thetas, strict=True)]


def build(request: Request, edits: states.Edits) -> Plan:
    """Creates missing states and binds kernels; may compile. What it writes to the state can be undone."""
    schema, procedure, values, taking = request.schema, request.procedure, request.values, request.taking
    wanted = states.needed(schema, procedure)
    takes_part = set(map(id, taking.parameters))
    in_order = shapes.needs_order(schema) or draws(procedure) or any(isinstance(s.storage, Codebook) for s in schema.states)
    fits = Tensor.is_contiguous if in_order else layout.is_dense  # kernels can work on it where it lies
    roster = _roster(request, wanted, takes_part, edits, fits)
    thetas: list[Tensor] = []
    copied, created = set(), {}
    here = [request.shards.here(p) for p in roster]
    for place, (p, mine) in enumerate(zip(roster, here, strict=True)):
        divisible.require(schema, values, p, request.shards)
        theta = mine.detach()
        if not fits(mine):
            theta = torch.empty_like(mine, memory_format=torch.contiguous_format, requires_grad=False).copy_(mine)
            copied.add(place)
        thetas.append(theta)
        gradient = _Gradient(request.shards.gradient(p), arithmetic_dtype(theta.dtype), request.factor)
        home = states.Home(p, theta, request.shards)
        created[place] = states.prepare(edits, schema, wanted, values, home, gradient)
    once = any(created.values()) and bool(rows.news_read(schema, procedure))
    statics = Statics.of_schema(schema, roster)
    members = _members(request, roster, thetas, edits.states)
    cast = Cast(roster, here, thetas, frozenset(copied))
    on_device = request.counting is not None and not once
    bindings = [] if on_device else [Binding.of(procedure, m, request.prepare) for m in members]
    device_batches = []
    if request.counting is not None and on_device:
        device_batches = [bind(request.counting, schema, procedure, m, roster, edits) for m in members]
    places = [place for place, p in enumerate(roster) if id(p) in takes_part]
    residents = [x for m in members for name, column in m.tensors.items() if name != _THETA for x in column]
    surveyable = procedure.name == "step" and not once and not copied and not any(map(request.shards.divides, roster))
    place_of = {id(p): place for place, p in enumerate(roster)}
    return Plan(
        schema=schema,
        procedure=procedure,
        counting=request.counting is not None,
        cast=cast,
        place_of=place_of,
        contiguous=layout.all_contiguous(thetas),
        bindings=bindings,
        device_batches=device_batches,
        statics=statics,
        static=statics.of(values),
        once=once,
        values=values,
        guards=Guards.of(here, roster, taking, residents),
        survey=Survey.of(request.group, [id(p) in place_of for p in request.group], residents) if surveyable else None,
        turn=cast.turn(places, schema, procedure, bindings, edits, created),
        shards=request.shards,
    )


def _roster(
    request: Request, wanted: Sequence[State], takes_part: set[int], edits: states.Edits, fits: Callable[[Tensor], bool]
) -> Sequence[Tensor]:
    """Who is bound: those that take part, and those that did before, so that they can come back without a new plan."""
    if request.counting is not None or request.procedure.name != "step":
        return list(request.taking.parameters)
    return [
        p
        for p in request.group
        if id(p) in takes_part or (_has_state(request, p, wanted, edits.states) and fits(request.shards.here(p)))
    ]


def _has_state(request: Request, p: Tensor, wanted: Sequence[State], slots: states.States) -> bool:
    """Whether a parameter without a gradient could have one at once, with the state that it has."""
    slot, schema = slots.get(p), request.schema
    home = states.Home(p, request.shards.here(p), request.shards)
    if slot is None or states.STEP not in slot or type(home.theta) not in checks.PLAIN:
        return False
    present = (state for state in wanted if states.exists(state, request.values, p))
    rest = local(slot[REST]) if REST in slot else None
    if schema.pair is not None and states.rest_of(schema.pair, rest, home.theta.detach()) is not rest:
        return False
    return all(states.fits(slot, schema, state, home, request.values) for state in present)


@dataclass(slots=True)
class _Gradient:
    """g in the arithmetic dtype with its factor, made when first asked for."""

    raw: Tensor | None
    dtype: torch.dtype
    factor: float | Tensor
    made: Tensor | None = None

    def __call__(self) -> Tensor | None:
        if self.made is None and self.raw is not None:
            self.made = self.raw.detach().to(self.dtype) * self.factor
        return self.made


def _members(request: Request, roster: Sequence[Tensor], thetas: Sequence[Tensor], slots: states.States) -> list[Members]:
    """Sorts by device, dtypes, variant, processes that have parts. A missing gradient is expected in its parameter's dtype."""
    flags = request.schema.flags
    variants: dict[Facts, dict[str, bool]] = {}
    sorted_: dict[tuple[object, ...], tuple[dict[str, bool], list[int]]] = {}
    reads_g = "g" in request.taking.varying
    dtypes = [p.grad.dtype if reads_g and p.grad is not None else theta.dtype for p, theta in zip(roster, thetas, strict=True)]
    shards = [request.shards.shard(p) for p in roster]
    for index, theta in enumerate(thetas):
        facts = Facts.of(roster[index])
        if facts not in variants:
            variants[facts] = {name: holds(condition, request.values, facts) for name, condition in flags}
        present = tuple(s.key in slots[roster[index]] for s in request.schema.states)
        shard = shards[index]
        among = () if shard is None else shard.groups
        key = (theta.device, theta.dtype, dtypes[index], *variants[facts].values(), present, among)
        sorted_.setdefault(key, (variants[facts], []))[1].append(index)
    names = [name for hyper in request.schema.hypers if hyper.kind == "choice" for name in hyper.names]
    choices = {name: value for name in names if isinstance(value := request.values[name], str)}
    numbers = {id(p): request.before + place for place, p in enumerate(request.group)}
    found = []
    for variant, positions in sorted_.values():
        first = positions[0]
        tensors = {"theta": [thetas[i] for i in positions]}
        for state in request.schema.states:
            entries = [slots[roster[i]].get(state.key) for i in positions]
            if not state.host and states.exists(state, request.values, roster[first]) and entries[0] is not None:
                tensors[state.name] = [local(entry) for entry in entries if entry is not None]
                if state.codebook(roster[first].numel()) is not None:
                    tensors[state.scales] = [slots[roster[i]][state.scale_key] for i in positions]
        if REST in slots[roster[first]]:
            tensors[REST] = [local(slots[roster[i]][REST]) for i in positions]
        places = [numbers[id(roster[i])] for i in positions]
        mine = [shard for i in positions if (shard := shards[i]) is not None]
        within = [shard.runs for shard in mine] or [Runs(0)] * len(positions)
        elements = [Runs(first_element(n) + first, *runs) for n, (first, *runs) in zip(places, within, strict=True)]
        of_group = dtypes[first], variant, choices, tensors, elements, mine, places
        found.append(Members(tuple(positions), thetas[first].device, *of_group))
    return found
