"""What a checkpoint on disk has, brought together with what an optimizer wants: by names, and in the parts that are here."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optc.runtime import hypers, shapes
from optc.runtime.callers import stacklevel
from optc.runtime.checkpoint_coders import CODERS
from optc.runtime.checkpoint_codes import STORING, codebook
from optc.runtime.checkpoint_spec import SPEC
from optc.runtime.divisible import block
from optc.runtime.manifest import decoded
from optc.runtime.names import bared, listed
from optc.runtime.pairs import REST
from optc.runtime.parted import TYPE
from optc.runtime.parts import Part, Place, elements_of, place_of
from optc.runtime.sharding import Shard, is_divided, like

if TYPE_CHECKING:
    from optc.runtime.parted import Parted
    from optc.runtime.schema import Schema


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load has found: parameters that only the optimizer has, those that only the checkpoint has.

    And the tensors that only the model has, and those of a model that only the checkpoint has.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    model_missing: tuple[str, ...] = ()
    model_unexpected: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """All of it, a line each."""
        found = [f"{name!r} is not in the checkpoint" for name in self.missing]
        found += [f"{name!r} is only in the checkpoint" for name in self.unexpected]
        found += [f"the model's {name!r} is not in the checkpoint" for name in self.model_missing]
        return found + [f"the model's {name!r} is only in the checkpoint" for name in self.model_unexpected]

    def summary(self) -> str:
        """How much of it there is; nothing where there is none."""
        sides = (
            ("parameters", self.missing, self.unexpected),
            ("tensors of the model", self.model_missing, self.model_unexpected),
        )
        return ", ".join(
            f"{len(missing)} {what} are not in the checkpoint ({_some(missing)}), {len(unexpected)} are only there "
            f"({_some(unexpected)})"
            for what, missing, unexpected in sides
            if missing or unexpected
        )


@dataclass(slots=True)
class FittingModel:
    """Brings together what a checkpoint has of a model and the model that is here, whatever is put around it.

    `there`: what the checkpoint tells of its tensors. `called`: the names of those that both have, by the keys of a state dict.
    """

    state: Mapping[str, Tensor]
    there: Mapping[str, Any]
    called: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    def check(self) -> list[str]:
        """Finds them. Returns those that have another shape, a line each."""
        names = bared(self.state)
        self.called = {key: name for key, name in names.items() if name in self.there}
        self.missing = tuple(name for name in names.values() if name not in self.there)
        self.unexpected = tuple(sorted(self.there.keys() - set(names.values())))
        shapes_of = {
            name: (tuple(self.there[name]["shape"]), tuple(self.state[key].shape)) for key, name in self.called.items()
        }
        return [
            f"the model's {name!r} has shape {there} there and {here} here"
            for name, (there, here) in shapes_of.items()
            if there != here
        ]

    def templates(self) -> dict[str, Tensor]:
        """What is to be read, by the keys of the model's state dict."""
        return {key: torch.empty_like(self.state[key]) for key in self.called}


@dataclass(slots=True)
class Fitting:
    """Brings together what a checkpoint has and what an optimizer wants. `templates`: what is to be read, by name and key."""

    optimizer: Parted
    manifest: Mapping[str, Any]
    folder: Path
    model: FittingModel | None = None
    templates: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def check(self, strict: bool) -> Loaded:
        """Makes the templates. Raises ValueError with all that does not fit."""
        manifest = self.manifest
        problems = self._changed_specs()
        self.names = self._matched()
        saved: Mapping[str, Any] = manifest["parameters"]
        there = {name: manifest["parts"][group["part"]] for group in manifest["groups"] for name in group["names"]}
        missing = tuple(name for name in self.names if name not in there)
        unexpected = tuple(sorted(there.keys() - set(self.names)))
        report = Loaded(missing, unexpected)
        for name, (p, schema, group) in zip(self.names, self._owned(), strict=True):
            if name not in there:
                continue
            if not _same(there[name], schema):
                problems.append(f"{name!r} was updated by {there[name]['optimizer']} there, and is by {schema.name} here")
                continue
            if name not in saved:
                continue
            if list(p.shape) != saved[name]["shape"]:
                problems.append(f"{name!r} has shape {tuple(saved[name]['shape'])} there and {tuple(p.shape)} here")
                continue
            try:
                self.templates[name] = self._template(p, schema, group, saved[name]["entries"], there[name]["states"])
            except ValueError as error:
                problems.append(f"{name!r}: {error}")
        if self.model is not None:
            problems += self.model.check()
            report = replace(report, model_missing=self.model.missing, model_unexpected=self.model.unexpected)
        if strict:
            problems += report.problems()
        if problems:
            raise ValueError(
                listed(f"{self.folder} does not fit this {self.optimizer._called()}, nothing was loaded:", problems)
            )
        summary = report.summary()
        if summary:
            warnings.warn(f"{self.folder}: {summary}; the others were loaded", stacklevel=stacklevel())
        return report

    def _changed_specs(self) -> list[str]:
        """States that specs have no more; warns where one has changed otherwise. Raises ValueError for other optimizers."""
        theirs, ours = self.manifest["parts"], {schema.name: schema for schema, _ in self.optimizer._schemas()}
        if theirs and not any(_same(one, schema) for one in theirs for schema in ours.values()):
            saved = " and ".join(dict.fromkeys(one["optimizer"] for one in theirs))
            raise ValueError(f"{self.folder} was saved by {saved}, and this is {' and '.join(ours)}")
        problems = []
        for one in theirs:
            schema = ours.get(one["optimizer"])
            if schema is None or one.get("spec") == schema.digest:
                continue
            known = {state.key for state in schema.of_parameters}
            gone = [key for key in one["states"] if key not in known]
            if gone:
                shown = ", ".join(map(repr, gone))
                problems.append(f"the spec of {schema.name} has changed since, and has no states {shown} any more")
            else:
                warnings.warn(f"the spec of {schema.name} has changed since {self.folder} was saved", stacklevel=stacklevel())
        return problems

    def _owned(self) -> list[tuple[Tensor, Schema, Mapping[str, Any]]]:
        """The parameters here in order, each with the schema that updates it, and its group."""
        schemas = {number: schema for schema, numbers in self.optimizer._schemas() for number in numbers}
        groups = enumerate(self.optimizer.param_groups)
        return [(p, schemas[number], group) for number, group in groups for p in group["params"]]

    def _matched(self) -> list[str]:
        """What the checkpoint calls this optimizer's parameters: by their names, or, where one side has none, by place."""
        own, groups = self.optimizer.param_groups, self.manifest["groups"]
        here = distinct_names(self.optimizer)
        there = [name for group in groups for name in group["names"]]
        if all("param_names" in group for group in own) and all(group.get("named") for group in groups):
            called = {plain: name for name, plain in bared(there).items()}
            return [called.get(plain, name) for name, plain in bared(here).items()]
        if len(there) != len(here):
            raise ValueError(f"{self.folder} has {len(there)} parameters without names, this optimizer {len(here)}")
        return there

    def _template(
        self, p: Tensor, schema: Schema, group: Mapping[str, Any], entries: Mapping[str, Any], states: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Tensors to read a parameter's entries into: parts of those that are divided here."""
        shards = self.optimizer._shards
        shard, here = shards.shard(p), shards.here(p)
        period = 1 if shard is None else shapes.period(schema, hypers.validate(schema, group))
        found = {}
        for key, entry in entries.items():
            dtype, shape = getattr(torch, entry["dtype"]), tuple(entry["shape"])
            place = None if shard is None else _place(key, shard, entries, states, period)
            device = here.device if shape else torch.device("cpu")
            if place is None or shard is None or place.ones:
                found[key] = torch.empty(shape, dtype=dtype, device=device)
                continue
            empty = torch.empty(place.here, dtype=dtype, device=device)
            found[key] = like(p, empty) if is_divided(p) and place.elements else Part.of(empty, place, place.whole(p))
        return found

    def packed(self) -> dict[str, Any]:
        """A state dict of this optimizer with what was read; what the checkpoint lacks stays as it is here."""
        packed = self.optimizer.state_dict()
        slots = {index: self.templates.get(name, packed["state"].get(index)) for index, name in enumerate(self.names)}
        hypers_of = {name: group["hypers"] for group in self.manifest["groups"] for name in group["names"]}
        groups = []
        for number, group in enumerate(packed["param_groups"]):
            told = [hypers_of[self.names[index]] for index in group["params"] if self.names[index] in hypers_of]
            if any(other != told[0] for other in told):
                raise ValueError(
                    f"{self.folder}: the parameters of group {number} here were in groups with other hypers there: make the "
                    "groups as they were"
                )
            read = {key: decoded(x) for key, x in told[0].items() if key not in (TYPE, SPEC)} if told else {}
            groups.append({**{k: x for k, x in group.items() if k not in (STORING, CODERS, SPEC)}, **read})
        return {"state": {index: slot for index, slot in slots.items() if slot}, "param_groups": groups}


def _place(key: str, shard: Shard, entries: Mapping[str, Any], states: Mapping[str, Any], period: int) -> Place | None:
    """Where a part of an entry is, by what the checkpoint says of its state; every `period`-th element may be picked."""
    if key == REST:
        return elements_of(shard)
    for name, told in states.items():
        book = codebook(told["codes"]) if told["codes"] is not None else None
        if key in (name, told["scale_key"]) and not told["host"]:
            coded = book if told["scale_key"] in entries else None
            if coded is not None and (shard.cuts is None or any(cut % block(coded) for cut in shard.cuts)):
                raise ValueError(f"{name!r} was saved as codes ({coded.name}), whose blocks the parts here cut through")
            return place_of(told["extent"], coded, key != name, period, shard)
    return None


def distinct_names(optimizer: Parted) -> list[str]:
    """The same. Raises ValueError where two parameters have one name."""
    names = names_of(optimizer)
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise ValueError(f"two parameters of this optimizer are called {twice!r}: give them names of their own")
    return names


def names_of(optimizer: Parted) -> list[str]:
    """What parameters are called, by the numbers that state dicts give them: names of groups that have some, else numbers."""
    found: list[str] = []
    for group in optimizer.param_groups:
        own = group.get("param_names") or [str(len(found) + place) for place in range(len(group["params"]))]
        found += [str(name) for name in own]
    return found


def _same(part: Mapping[str, Any], schema: Schema) -> bool:
    """Whether a part of a checkpoint comes from this optimizer, or one that only keeps its states otherwise."""
    return bool(part["optimizer"] == schema.name or part.get("spec") == schema.digest)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "") if names else "none"
