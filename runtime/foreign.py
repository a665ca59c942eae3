"""State dicts of bitsandbytes and torchao, read as if they were ours: with codes, scales, and what each code means.

bitsandbytes keeps `state1` and `state2` with `absmax1`, `qmap1` and so on; torchao has tensors of its own, with `codes`,
`scale` and `qmap`. Neither library is imported, so files are known by their structure alone, and all of it is data from
outside: what is not as the library writes it is a problem, and then nothing of the file is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor

from optc.runtime import peers
from optc.runtime.checkpoint_codes import Kept, codebook
from optc.runtime.codebook import BLOCKS, Codebook
from optc.runtime.peers import Library, Place, Rule
from optc.runtime.schema import Schema
from optc.runtime.storage import codes_shape, readable

WRAPPED = "__bnb_optimizer_quant_state__"
"""Under this key newer versions of bitsandbytes hide their tensors from FSDP."""

_GROUP = ("lr", "betas", "eps", "weight_decay", "alpha", "t_alpha", "t_beta3")
_SLOT = frozenset(f"{name}{number}" for name in ("state", "absmax", "qmap") for number in (1, 2)) | {"step"}
_PER_TENSOR = frozenset({"max1", "max2", "new_max1", "new_max2"})
_LENGTHS = (256, 2048)
"""Numbers in a block of bitsandbytes: now, and before 0.44. A file does not say."""
_E4M3 = torch.float8_e4m3fn


def recognised(schema: Schema, slots: Mapping[Any, Any]) -> Library | None:
    """Whose state dict it is by its states; None for torch's layout, and for ours."""
    ours = {state.key for state in schema.states}
    for slot in slots.values():
        if isinstance(slot, Mapping):
            if not ours & {"state1", "state2"} and not {"state1", "state2", WRAPPED}.isdisjoint(slot):
                return "bitsandbytes"
            if any(map(_is_coded, slot.values())):
                return "torchao"
    return None


@dataclass(frozen=True, slots=True)
class Foreign:
    """A state dict of another library that is loaded into an optimizer of `schema`; `problems` is appended to."""

    library: Library
    schema: Schema
    problems: list[str]
    rule: Rule | None = None

    @staticmethod
    def of(schema: Schema, slots: Mapping[Any, Any], problems: list[str]) -> Foreign | None:
        """None where the file is in torch's layout."""
        library = recognised(schema, slots)
        if library is None:
            return None
        rule = next((rule for rule in peers.OF_BITSANDBYTES if rule.belongs_to(schema)), None)
        if library == "bitsandbytes" and rule is None:
            known = ", ".join(rule.name for rule in peers.OF_BITSANDBYTES)
            problems.append(
                f"it is of bitsandbytes, whose {known} can be read, but {schema.name} keeps the states of none of them"
            )
        return Foreign(library, schema, problems, rule)

    def group(self, saved: Mapping[str, Any], label: str) -> dict[str, Any]:
        """A parameter group with our names of hypers."""
        if self.library == "torchao":
            group = {**saved, "maximize": False}
            lr = group.get("lr")
            if _is_plain(lr) and lr.numel() == 1 and not lr.is_complex():
                group["lr"] = lr.item()  # it keeps a tensor whatever it was given
            return group
        group = {key: value for key, value in saved.items() if key not in _GROUP}
        if self.rule is None:
            return group
        known = {hyper.key for hyper in self.schema.hypers}
        hypers = {self.rule.renamed.get(key, key): saved[key] for key in _GROUP if key in saved}
        hypers |= self._decay_rates(hypers.pop("betas", None), label)
        hypers |= {"maximize": False, **self.rule.fixed}
        return group | {key: value for key, value in hypers.items() if key in known or key == "maximize"}

    def _decay_rates(self, betas: Any, label: str) -> dict[str, Any]:
        assigned = None if self.rule is None else self.rule.betas
        if self.rule is None or assigned is None:
            return {} if betas is None else {"betas": betas}
        numbers = (
            isinstance(betas, list | tuple) and len(betas) == len(assigned) and all(isinstance(x, int | float) for x in betas)
        )
        if not numbers or any(key is None and beta != 0 for key, beta in zip(assigned, betas, strict=True)):
            form = ", ".join("0" if key is None else key for key in assigned)
            self.problems.append(
                f"{label}: betas = {betas!r}, but those of {self.rule.name} are ({form}): a file of bitsandbytes does not name "
                "its optimizer, load it into the optimizer that it was saved from"
            )
            return {}
        return {key: beta for key, beta in zip(assigned, betas, strict=True) if key is not None}

    def kept(self, slot: Mapping[str, Any], p: Tensor, label: str) -> Kept | None:
        """What the file has of a parameter, by our keys; None where that is a problem."""
        found, before = _Reading(p, label, self.problems), len(self.problems)
        if self.library == "torchao":
            for key, entry in slot.items():
                if _is_coded(entry):
                    found.take_tensor(self.schema, key, entry)
                elif entry is not None:
                    found.entries[key] = entry
        elif self.rule is not None:
            wrapped = slot.get(WRAPPED, {})
            if not isinstance(wrapped, Mapping):
                self.problems.append(f"{label}: {WRAPPED!r} must be a table of tensors, not {wrapped!r}")
                wrapped = {}
            found.take_states(self.rule, {**{key: entry for key, entry in slot.items() if key != WRAPPED}, **wrapped})
        known = self.library == "torchao" or self.rule is not None
        return Kept(found.entries, found.scales, found.books, label) if known and len(self.problems) == before else None


@dataclass(slots=True)
class _Reading:
    """What has been found of the states of `p`."""

    p: Tensor
    label: str
    problems: list[str]
    entries: dict[str, Any] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)
    books: dict[str, Codebook] = field(default_factory=dict)

    def wrong(self, text: str) -> None:
        self.problems.append(f"{self.label}: {text}")

    def put(self, key: str, codes: Tensor, scales: Tensor, book: Codebook) -> None:
        self.entries[key], self.scales[key], self.books[key] = codes, scales, book

    # --- bitsandbytes ---------------------------------------------------------------------------------------------------------

    def take_states(self, rule: Rule, slot: Mapping[str, Any]) -> None:
        """Those of bitsandbytes, of one rule."""
        if not _PER_TENSOR.isdisjoint(slot):
            return self.wrong(
                "has one scale for the whole tensor, as bitsandbytes had with block_wise=False: it cannot be read"
            )
        if "unorm_vec" in slot:
            return self.wrong(
                "was trained with max_unorm, a bound on the size of updates (LAMB8bit and LARS8bit have it): none here"
            )
        numbers = {place.number for place in rule.places.values()}
        present = {number for number in (1, 2) if slot.get(f"state{number}") is not None}
        if present != numbers:
            have = " and ".join(f"'state{number}'" for number in sorted(present)) or "no state"
            want = " and ".join(f"'state{number}'" for number in sorted(numbers))
            return self.wrong(f"has {have}, but {rule.name} of bitsandbytes keeps {want}")
        self.entries.update({key: entry for key, entry in slot.items() if key not in _SLOT or key == "step"})
        for key, place in rule.places.items():
            self._take_state(rule, key, place, slot)
        return None

    def _take_state(self, rule: Rule, key: str, place: Place, slot: Mapping[str, Any]) -> None:
        name = f"state{place.number}"
        shape = tuple(self.p.shape) if place.row is None else (2, *self.p.shape)
        state = slot[name]
        if not _is_plain(state) or tuple(state.shape) != shape:
            return self.wrong(f"{name!r} must be a tensor of shape {shape}, as {rule.name} has it, not {_shown(state)}")
        if not state.is_contiguous():
            return self.wrong(
                f"{name!r} is not contiguous: bitsandbytes follows its memory on GPUs and its indices on CPUs, and the "
                "file does not say which; put it in the order of indices there"
            )
        if state.is_floating_point():
            self.entries[key] = state if place.row is None else state[place.row]
            return None
        levels, scales = slot.get(f"qmap{place.number}"), slot.get(f"absmax{place.number}")
        if state.dtype != torch.uint8 or levels is None or scales is None:
            return self.wrong(f"{name!r} must be numbers, or bytes with 'qmap{place.number}' and 'absmax{place.number}'")
        numel, rows = self.p.numel(), () if place.row is None else (2,)
        fitting = [block for block in _LENGTHS if _are_scales(scales) and scales.shape == (*rows, -(-numel // block))]
        if not fitting:
            expected = (*rows, -(-numel // _LENGTHS[0]))
            return self.wrong(
                f"'absmax{place.number}' must be scales of shape {expected}, finite float32 numbers of 0 or above, one for "
                f"{_LENGTHS[0]} numbers, not {_shown(scales)}"
            )
        book = _book("bitsandbytes", levels, fitting[0], (256,))
        if book is None:
            return self.wrong(f"'qmap{place.number}' must be 256 finite float32 levels")
        row = slice(None) if place.row is None else place.row
        self.put(key, state[row] if rows else state, scales[row] if rows else scales, book)
        return None

    # --- torchao --------------------------------------------------------------------------------------------------------------

    def take_tensor(self, schema: Schema, key: str, entry: Any) -> None:
        """One of torchao: `OptimState8bit`, `OptimState4bit` or `OptimStateFp8`."""
        if any(state.key == key and state.extent != "elem" for state in schema.states):
            return self.wrong(f"{key!r} are codes, and {schema.name} has no number for each element there")
        codes, scales, numel = entry.codes, entry.scale, self.p.numel()
        if not _is_plain(codes) or codes.dtype not in (torch.uint8, _E4M3):
            return self.wrong(f"the codes of {key!r} must be bytes or {_E4M3}, not {_shown(codes)}")
        # they have the default dtype, whatever that was; from 16 bits float32 is exact
        if not _are_scales(scales, (torch.float32, torch.bfloat16, torch.float16)) or scales.ndim != 1 or not scales.numel():
            return self.wrong(f"the scales of {key!r} must be finite numbers of 0 or above, not {_shown(scales)}")
        block, rest = divmod(numel, scales.numel())
        if rest or block not in BLOCKS:
            return self.wrong(
                f"{key!r} has {scales.numel()} scales for {numel} numbers, but {BLOCKS[0]}, {BLOCKS[1]}, … or {BLOCKS[-1]} "
                "numbers must share one"
            )
        levels = _all_bytes() if codes.dtype == _E4M3 else getattr(entry, "qmap", None)
        book = _book("torchao", levels, block, (16, 256), nan=codes.dtype == _E4M3)
        if book is None:
            return self.wrong(f"the `qmap` of {key!r} must be 16 or 256 finite float32 levels")
        shape = codes_shape(book, self.p.shape)
        if tuple(entry.shape) != tuple(self.p.shape) or tuple(codes.shape) != shape:
            return self.wrong(
                f"{key!r} must be of shape {tuple(self.p.shape)} with codes of shape {shape}, not of {tuple(entry.shape)} with "
                f"{_shown(codes)}"
            )
        self.put(key, codes.view(torch.uint8), scales, book)
        return None


def _is_coded(entry: Any) -> bool:
    """Whether it is one of torchao's tensors: by what it has, for a class of that name could be anybody's."""
    return isinstance(entry, Tensor) and type(entry) is not Tensor and hasattr(entry, "codes") and hasattr(entry, "scale")


def _is_plain(x: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor with memory of its own, each element at its place."""
    return type(x) is Tensor and readable(x)


def _are_scales(x: Any, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> TypeGuard[Tensor]:
    return _is_plain(x) and x.dtype in dtypes and bool((x.isfinite() & (x >= 0)).all())


def _book(library: str, levels: Any, block: int, lengths: Sequence[int], nan: bool = False) -> Codebook | None:
    """What codes mean; None where `levels` are none. `nan`: codes may be left out."""
    if not _is_plain(levels) or levels.dtype != torch.float32 or levels.ndim != 1 or len(levels) not in lengths:
        return None
    if not nan and not bool(levels.isfinite().all()):
        return None
    kind = "float8" if nan else "8-bit" if len(levels) == 256 else "4-bit"
    return codebook({"name": f"{kind} codes of {library} in blocks of {block}", "levels": levels.tolist(), "block": block})


def _all_bytes() -> Tensor:
    """The numbers that all bytes are as 8-bit floating point."""
    return torch.arange(256, dtype=torch.uint8).view(_E4M3).float()


def _shown(x: Any) -> str:
    return f"a tensor of shape {tuple(x.shape)} and {x.dtype}" if isinstance(x, Tensor) else f"{x!r}"[:80]
