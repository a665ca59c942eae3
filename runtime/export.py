"""State dicts for the optimizers of bitsandbytes and torchao: codes as they are, where those libraries mean the same by them.

Both keep codes beside the numbers of tensors that are too small, and continue with numbers wherever they are given some. What
they could not continue from is refused: other levels, hypers that they do not have, rules that they do not know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from optc.runtime import hypers, peers
from optc.runtime import state as states
from optc.runtime.checkpoint_coders import CODERS
from optc.runtime.checkpoint_codes import STORING, means_the_same
from optc.runtime.checkpoint_spec import SPEC
from optc.runtime.codebook import Codebook
from optc.runtime.names import listed, not_ours
from optc.runtime.optimizer import Optimizer
from optc.runtime.parted import Parted
from optc.runtime.peers import LIBRARIES, OF_BITSANDBYTES, OF_TORCHAO, Library, Rule
from optc.runtime.registry import lookup
from optc.runtime.schema import Schema, State
from optc.runtime.storage import are_codes, decode

_OWN = ("params", "maximize", "capturable", STORING, CODERS, SPEC)
"""Keys of groups that the libraries do not have, or have as ours are."""
_OF_TWO_STATES = {"alpha": 0.0, "t_alpha": None, "t_beta3": None}
"""Hypers of AdEMAMix that bitsandbytes has in the groups of every rule with two states, and their values there."""


def export_state(optimizer: Optimizer, library: Library) -> dict[str, Any]:
    """A state dict that the same optimizer of another library loads and continues from; everything in it is a copy.

    `library` is "bitsandbytes" (AdamW8bit, Lion8bit, SGD8bit, RMSprop8bit, Adagrad8bit, AdEMAMix8bit; Adam8bit, which is the
    same as its AdamW8bit) or "torchao" (Adam and AdamW, 8bit, 4bit and Fp8; it must be installed). Codes are copied bit for
    bit, with their scales. Numbers stay numbers, and both libraries continue with them. Codes of a tensor that is no whole
    number of blocks are decoded for torchao, which keeps numbers there.

    Raises ValueError with everything that the library could not continue from, such as a state whose codes mean something
    else, `amsgrad` or `maximize`; ImportError where torchao is needed and missing.
    """
    if library not in LIBRARIES:
        raise ValueError(f"library = {library!r}, but it must be one of {', '.join(map(repr, LIBRARIES))}")
    if isinstance(optimizer, Parted) and not isinstance(optimizer, Optimizer):
        parts = ", ".join(f"parts[{part.param_groups[0]['type']!r}]" for part in optimizer._share() if part.param_groups)
        raise TypeError(f"{library} has no optimizer of several rules: export them one by one, each by itself: {parts}")
    if not isinstance(optimizer, Optimizer):
        raise not_ours("optc.export_state", optimizer)
    schema = optimizer.schema
    rules = OF_BITSANDBYTES if library == "bitsandbytes" else OF_TORCHAO
    rule = peers.named(schema, rules)
    if rule is None:
        known = ", ".join(name for one in rules for name in one.ours)
        raise ValueError(
            f"{library} has no optimizer that goes on as {schema.name} does: only {known}, in any storage, have one"
        )
    problems: list[str] = []
    for group in optimizer.param_groups:
        hypers.validate(schema, group)
    packed = optimizer.state_dict()
    groups = [
        _group(schema, rule, library, group, f"group {index}", problems) for index, group in enumerate(packed["param_groups"])
    ]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots = {}
    for index, slot in packed["state"].items():
        parameter = _Parameter(schema, rule, library, parameters[index], slot, f"parameter {index}", problems)
        exported = parameter.for_bitsandbytes() if library == "bitsandbytes" else parameter.for_torchao()
        if exported:
            slots[index] = exported
    if problems:
        raise ValueError(listed(f"{library} could not continue from this state of {schema.name}:", problems))
    return {"state": slots, "param_groups": groups}


# --- groups -------------------------------------------------------------------------------------------------------------------


def _group(
    schema: Schema, rule: Rule, library: Library, group: Mapping[str, Any], label: str, problems: list[str]
) -> dict[str, Any]:
    """A parameter group with the library's names of hypers; keys that are not ours stay (a scheduler's `initial_lr`)."""
    lr, decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
    for key, wanted in {**rule.fixed, "maximize": False}.items():
        no_decay = key == "decoupled_weight_decay" and decay == 0
        if group.get(key, wanted) != wanted and not no_decay:
            problems.append(f"{label}: {key} = {group[key]!r}, but {rule.name} of {library} can only go on as with {wanted!r}")
    if rule.betas is not None and "momentum" in rule.betas and float(group["momentum"]) == 0:
        problems.append(f"{label}: momentum = 0.0, without which {library} has no {rule.name}")
    ours = {hyper.key for hyper in schema.hypers}
    further = {key: value for key, value in group.items() if key not in ours and key not in _OWN}
    theirs: dict[str, Any]
    if library == "torchao":
        # its step insists on a tensor
        theirs = {"lr": torch.tensor(lr, dtype=torch.float32), "betas": tuple(group["betas"]), "amsgrad": False}
    else:
        betas = group["betas"] if rule.betas is None else [0.0 if key is None else float(group[key]) for key in rule.betas]
        theirs = {"lr": lr, "betas": tuple(betas)}
        if any(place.number == 2 for place in rule.places.values()):
            ours_of = {key: rule.renamed.get(key, key) for key in _OF_TWO_STATES}
            theirs |= {key: group.get(ours_of[key], default) for key, default in _OF_TWO_STATES.items()}
    return {"params": list(group["params"]), **theirs, "eps": float(group.get("eps", 1e-8)), "weight_decay": decay, **further}


# --- states -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Parameter:
    """What an optimizer keeps of one parameter; `problems` is appended to."""

    schema: Schema
    rule: Rule
    library: Library
    p: Tensor
    slot: Mapping[str, Any]
    label: str
    problems: list[str]

    def wrong(self, text: str) -> None:
        self.problems.append(f"{self.label}: {text}")

    def kept(self) -> dict[str, Tensor | _Codes] | None:
        """The states of the rule, by our keys, in memory of their own; None where there are none, or they do not fit."""
        if self.rule.places.keys().isdisjoint(self.slot):
            return None
        before = len(self.problems)
        if self.p.dtype == torch.float64:
            self.wrong(f"it is float64, and {self.library} computes in float32")
            return None
        found = {s.key: self._entry(s, self.slot.get(s.key)) for s in self.schema.states if s.key in self.rule.places}
        return {key: entry for key, entry in found.items() if entry is not None} if len(self.problems) == before else None

    def _entry(self, state: State, entry: Any) -> Tensor | _Codes | None:
        key, scales, book = state.key, self.slot.get(state.scale_key), state.codebook(self.p.numel())
        if not isinstance(entry, Tensor):
            self.wrong(f"{key!r} is missing")
            return None
        if entry.is_floating_point():
            return entry.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if book is None or not are_codes(state, book, entry, scales, self.p) or not isinstance(scales, Tensor):
            self.wrong(f"{key!r} is no state of a parameter of shape {tuple(self.p.shape)}")
            return None
        wanted = _books(self.library, self.rule.places[key].number)
        blocks = {own.block for own in wanted} if self.library == "bitsandbytes" else {book.block}
        if book.block not in blocks or not any(means_the_same(replace(own, block=book.block), book) for own in wanted):
            names = " or ".join(own.name for own in wanted)
            self.wrong(
                f"{key!r} is kept as {book.name}, and {self.library} keeps it as {names}: load this optimizer's state dict "
                f"into one with storing = {{{state.name!r}: {wanted[0].name!r}}}, and export the state of that"
            )
            return None
        return _Codes(entry.detach().clone(), scales.detach().clone(), book)

    def for_bitsandbytes(self) -> dict[str, Any]:
        """`step`, `state1` and so on; empty where there is nothing to continue from."""
        kept = self.kept()
        if kept is None:
            return {}
        coded = {key: isinstance(entry, _Codes) for key, entry in kept.items()}
        if len(set(coded.values())) > 1:
            told = ", ".join(f"{key!r} as {'codes' if is_coded else 'numbers'}" for key, is_coded in coded.items())
            self.wrong(f"bitsandbytes keeps all states of a parameter as codes or none, here are {told}")
            return {}
        # a buffer that is there goes on, and that library starts it anew at step 1
        step = max(int(states.number(self.slot[states.STEP])), 1 if "momentum_buffer" in kept else 0)
        slot: dict[str, Any] = {"step": step}
        for number in sorted({place.number for place in self.rule.places.values()}):
            rows = [kept[key] for key, place in self.rule.places.items() if place.number == number]
            codes = [row for row in rows if isinstance(row, _Codes)]
            slot[f"state{number}"] = _stacked([row.codes if isinstance(row, _Codes) else row for row in rows])
            if codes:
                slot[f"absmax{number}"] = _stacked([row.scales for row in codes])
                slot[f"qmap{number}"] = codes[0].levels()
        return slot

    def for_torchao(self) -> dict[str, Any]:
        """`step` and tensors of torchao's classes; empty where there is nothing to continue from."""
        kept = self.kept()
        if kept is None:
            return {}
        slot: dict[str, Any] = {"step": torch.tensor(states.number(self.slot[states.STEP]), dtype=torch.float32)}
        for key, entry in kept.items():
            slot[key] = entry if isinstance(entry, Tensor) else entry.of_torchao(self.p, self.rule.places[key].number == 1)
        return slot


@dataclass(frozen=True, slots=True)
class _Codes:
    """A state that is codes."""

    codes: Tensor
    scales: Tensor
    book: Codebook

    def levels(self) -> Tensor:
        """What the codes mean, float32."""
        return torch.tensor(self.book.levels, dtype=torch.float32, device=self.codes.device)

    def of_torchao(self, p: Tensor, signed: bool) -> Any:
        """As torchao keeps the same; numbers where `p` is no whole number of blocks. Raises ImportError without torchao."""
        if not p.numel() or p.numel() % self.book.block:
            return decode(self.codes, self.scales, self.book, p.numel()).view(p.shape)
        try:
            from torchao.optim.subclass_4bit import OptimState4bit
            from torchao.optim.subclass_8bit import OptimState8bit
            from torchao.optim.subclass_fp8 import OptimStateFp8
        except ImportError as error:
            raise ImportError("states for torchao are tensors of its own classes: install it (pip install torchao)") from error
        if any(math.isnan(level) for level in self.book.levels):
            return OptimStateFp8(self.codes.view(torch.float8_e4m3fn), self.scales, dtype=p.dtype)
        if self.book.bits == 8:
            return OptimState8bit(self.codes, self.scales, self.levels(), signed, dtype=p.dtype)
        return OptimState4bit(self.codes, self.scales, self.levels(), signed, tuple(p.shape), dtype=p.dtype)


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    """The only row as it is, two of them in one tensor."""
    return rows[0] if len(rows) == 1 else torch.stack(list(rows))


@cache
def _books(library: Library, number: int) -> tuple[Codebook, ...]:
    """What the codes of a library mean in its first or second state: the same as in ours of the same names."""
    shipped = ("AdamW8bit",) if library == "bitsandbytes" else ("AdamW8bit", "AdamW4bit", "AdamWFp8")
    kept = [lookup(name).schema.states[number - 1].storage for name in shipped]
    return tuple(book for book in kept if isinstance(book, Codebook))
