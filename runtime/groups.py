"""Parameter groups from a model: no decay for biases and norms, learning rates by depth, settings by name or by any rule.

    groups.no_decay(model, 0.05)                                # for any torch.optim.Optimizer
    groups.layerwise(model, lr=1e-3, decay=0.75, weight_decay=0.05)
    groups.override(groups.no_decay(model, 0.05), {"head.*": dict(lr=1e-3)})

Each function takes a model, its `named_parameters()`, or what another function has returned, and returns new groups whose
`params` are (name, parameter) pairs: optimizers keep the names, as `param_names`, in their groups and state dicts.

- What comes in with options (`lr`, `weight_decay`, …) keeps them; groups are only ever split, never joined.
- A parameter with several names (tied weights) stands once, with the first; rules see all of its names.
- Frozen parameters are left out unless `frozen=True`.
- A rule is a pattern for `fnmatch` (`*` stands for anything, dots included; case counts), a function (name, parameter) -> bool,
  or a tuple of these, one of which has to hold. A rule that holds for no parameter is an error.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from optc.runtime.depths import Depth, depths

__all__ = ["Depth", "Group", "Params", "Rule", "Rules", "layerwise", "no_decay", "override"]

Group: TypeAlias = dict[str, Any]
"""A parameter group of (name, parameter) pairs under `params`, and options."""

Params: TypeAlias = nn.Module | Iterable[tuple[str, Tensor]] | Iterable[Group]
"""A model, its named parameters, or groups."""

Single: TypeAlias = str | Callable[[str, Tensor], bool]
Rule: TypeAlias = Single | tuple[Single, ...]
"""Which parameters: by a pattern of names, by a function, or by any of several."""

Rules: TypeAlias = Mapping[Any, Mapping[str, Any]] | Iterable[tuple[Rule, Mapping[str, Any]]]
"""Rules with options, in order."""

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """A parameter, all its names, what it is for, the options it has so far, and what keeps it apart from other groups."""

    p: Tensor
    names: tuple[str, ...]
    part: frozenset[Literal["norm", "embedding"]] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict)
    origin: tuple[int, ...] = (0,)

    @property
    def name(self) -> str:
        """Its first name."""
        return self.names[0]

    def takes(self, options: Mapping[str, Any], *apart: int) -> Entry:
        """With further options, which win over those it has, and apart from others by a number."""
        return replace(self, options={**self.options, **options}, origin=(*self.origin, *apart))


def no_decay(
    params: Params,
    weight_decay: float | None = None,
    *,
    embeddings: bool = False,
    also: Rule = (),
    frozen: bool = False,
) -> list[Group]:
    """Groups with decay and without: none for biases, for norms, and for whatever has fewer than two dimensions.

    `weight_decay`: of all others, in [0, inf); with None they get what the optimizer has. Biases are known by their names
    (`bias`, `in_proj_bias`), norms by their modules, all of torch.nn. `embeddings`: neither for nn.Embedding and EmbeddingBag.
    `also`: a rule for further ones. What `no_weight_decay()` of the model, or of a module in it, names has none either (timm's
    models have it). Modules are known of a model only: of named parameters, name norms with more dimensions and embeddings.

    Raises ValueError where `also` holds for nothing, TypeError for parameters without names.
    """
    entries, model = _read(params)
    return _grouped(_without_decay(entries, model, weight_decay, embeddings, also), frozen)


def layerwise(
    params: Params,
    lr: float | Tensor,
    decay: float = 0.75,
    *,
    depth: Depth | None = None,
    weight_decay: float | None = None,
    embeddings: bool = False,
    also: Rule = (),
    frozen: bool = False,
) -> list[Group]:
    """Groups whose learning rates fall with the distance from the output: lr·decay^(last - depth), as in ELECTRA and BEiT.

    Depth 0 is all before the blocks (embeddings), block i has i + 1, and all behind them (norm, head) the last. Blocks are
    numbered in names: the first number behind `blocks`, `layers`, `layer`, `h` and their kin (`blocks.3.`, `encoder.layer.3.`,
    `stages.1.blocks.3.`). Several lists of blocks follow one another; what lies between them is as deep as the block before.
    Otherwise `depth` says it: a function from a name to a whole number of 0 or above, the largest of which is the last.

    `lr`: of the last, in [0, inf). `decay`: in (0, 1]. With a `weight_decay`, `no_decay` applies as well, with `embeddings` and
    `also`. Raises ValueError where there are no blocks, and for what is out of range.
    """
    _require(_is_number(lr) and 0 <= lr < math.inf, "layerwise: lr", lr, "[0, inf)")
    _require(_is_number(decay) and 0 < decay <= 1, "layerwise: decay", decay, "(0, 1]")
    if weight_decay is None and (embeddings or also):
        raise ValueError("layerwise: `embeddings` and `also` say what has no weight decay: give a weight_decay as well")
    entries, model = _read(params)
    found = depths([entry.name for entry in entries], depth)
    last = max(found, default=0)
    rates = {n: lr * decay ** (last - n) for n in set(found)}
    entries = [e.takes({"lr": rates[n]}, n) for e, n in zip(entries, found, strict=True)]
    if weight_decay is not None:
        entries = _without_decay(entries, model, weight_decay, embeddings, also)
    return _grouped(entries, frozen)


def override(params: Params, rules: Rules, *, frozen: bool = False) -> list[Group]:
    """Groups with other options where rules hold: `{"*.bias": dict(weight_decay=0.0), "head.*": dict(lr=1e-3)}`.

    All rules that hold for a parameter count; where two give the same option, the later one wins, as both win over what the
    parameter came with. A sequence of pairs does as well as a dict. Raises ValueError for a rule that holds for no parameter.
    """
    entries, _ = _read(params)
    for number, (rule, options) in enumerate(pairs(rules)):
        held = _selected(entries, rule, f"rule {number}")
        entries = [e.takes(options) if hit else e for e, hit in zip(entries, held, strict=True)]
    return _grouped(entries, frozen)


def split(
    params: Params, rules: Rules, otherwise: Mapping[str, Any] | None = None, *, frozen: bool = False
) -> tuple[list[Group], list[str]]:
    """Groups of parameters that each take the options of one rule, the first that holds; and the names of those left over.

    What none of the rules takes gets `otherwise`. Options that a parameter came with win over those of its rule; one that came
    with a `type` is settled, no rule takes it. Raises ValueError for a rule that gets no parameter.
    """
    entries, _ = _read(params)
    ordered = pairs(rules)
    settled, last = len(ordered) + 1, len(ordered)
    chosen: list[int | None] = [settled if "type" in entry.options else None for entry in entries]
    for number, (rule, _options) in enumerate(ordered):
        held = _selected(entries, rule, f"rule {number}")
        free = [place for place, hit in enumerate(held) if hit and chosen[place] is None]
        if not free:
            raise ValueError(f"rule {number} ({_shown(rule)}) gets no parameter: earlier ones take all that it holds for")
        for place in free:
            chosen[place] = number
    taken: list[Entry] = []
    left: list[str] = []
    for entry, which in zip(entries, chosen, strict=True):
        if which is None and otherwise is None:
            left += [entry.name] if entry.p.requires_grad or frozen else []
            continue
        options = {} if which == settled else otherwise or {} if which is None else ordered[which][1]
        taken.append(
            replace(entry, options={**options, **entry.options}, origin=(last if which is None else which, *entry.origin))
        )
    return [] if left else _grouped(taken, frozen), left


def named(params: Any, *, frozen: bool = False) -> Any:
    """What an optimizer takes: of a model its named parameters, anything else as it is."""
    return [(e.name, e.p) for e in _read(params)[0] if frozen or e.p.requires_grad] if isinstance(params, nn.Module) else params


# --- rules --------------------------------------------------------------------------------------------------------------------


def _without_decay(
    entries: list[Entry], model: nn.Module | None, weight_decay: float | None, embeddings: bool, also: Rule
) -> list[Entry]:
    if weight_decay is not None:
        _require(_is_number(weight_decay) and 0 <= weight_decay < math.inf, "weight_decay", weight_decay, "[0, inf)")
    without = _spared_by_modules(model)
    further = _selected(entries, also, "`also`") if also else [False] * len(entries)
    decayed = {} if weight_decay is None else {"weight_decay": weight_decay}
    result = []
    for entry, hit in zip(entries, further, strict=True):
        spared = entry.p.ndim <= 1 or "norm" in entry.part or (embeddings and "embedding" in entry.part)
        spared = spared or hit or any(_is_bias(name) or _any_fits(without, name) for name in entry.names)
        result.append(entry.takes({"weight_decay": 0.0} if spared else decayed, int(spared)))
    return result


def _is_number(value: Any) -> bool:
    """Whether a number can be compared: a tensor may be one."""
    plain = isinstance(value, Real) and not isinstance(value, bool)
    return plain or (isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex())


def _require(holds: Any, label: str, value: Any, range_: str) -> None:
    """Raises ValueError where a number is none, or out of its range."""
    if not holds:
        raise ValueError(f"{label} = {value!r}, but it must be a number in {range_}")


def _is_bias(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last == "bias" or last.endswith("_bias")


def _spared_by_modules(model: nn.Module | None) -> list[str]:
    """What the model, or a module in it, says has no weight decay: patterns of names."""
    found = []
    for prefix, module in () if model is None else model.named_modules():
        listed = getattr(module, "no_weight_decay", None)
        if callable(listed):
            found += [f"{prefix}.{name}" if prefix else name for name in listed()]
    return found


def _any_fits(patterns: Sequence[str], name: str) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def pairs(rules: Any, alone: str | None = None) -> list[tuple[Rule, Mapping[str, Any]]]:
    """Rules with their options. Raises TypeError for what is no such pair.

    With `alone`, a text or a class stands for options in which it alone is given, under this key.
    """
    if not isinstance(rules, Iterable):
        raise TypeError(f"rules are a dict, or pairs of a pattern or function and a dict of options, not {rules!r}"[:200])
    found: list[tuple[Rule, Mapping[str, Any]]] = []
    for number, pair in enumerate(rules.items() if isinstance(rules, Mapping) else rules):
        options = options_of(pair[1], alone) if isinstance(pair, tuple | list) and len(pair) == 2 else None
        if not isinstance(options, Mapping):
            raise TypeError(f"rule {number} must be a pair of a pattern or function and a dict of options, not {pair!r}"[:200])
        found.append((pair[0], options))
    return found


def options_of(given: Any, alone: str | None) -> Any:
    """A text or a class as a dict of it under the key `alone`; anything else as it is."""
    return {alone: given} if alone is not None and isinstance(given, str | type) else given


def _selected(entries: Sequence[Entry], rule: Rule, label: str) -> list[bool]:
    """For which parameters a rule holds. Raises ValueError where that is none, for each of its alternatives."""
    held = [False] * len(entries)
    for single in rule if isinstance(rule, tuple) else (rule,):
        if isinstance(single, str):
            hits = [any(fnmatchcase(name, single) for name in entry.names) for entry in entries]
        elif callable(single):
            hits = [any(bool(single(name, entry.p)) for name in entry.names) for entry in entries]
        else:
            raise TypeError(f"{label} must be a pattern, a function (name, parameter) -> bool or a tuple of these: {single!r}")
        if not any(hits):
            raise ValueError(f"{label} ({_shown(single)}) holds for no parameter: {_near(single, entries)}")
        held = [a or b for a, b in zip(held, hits, strict=True)]
    if not any(held):
        raise ValueError(f"{label} is an empty tuple, which holds for no parameter")
    return held


def _near(rule: Single, entries: Sequence[Entry]) -> str:
    names = [name for entry in entries for name in entry.names]
    if isinstance(rule, str):
        wider = f"*{rule.strip('*')}*"
        inside = [name for name in names if fnmatchcase(name, wider)]
        if inside:
            return f"did you mean {wider!r}, which holds for {inside[0]!r}{f' and {len(inside) - 1} more' * (len(inside) > 1)}?"
        close = difflib.get_close_matches(rule, names, 2)
        if close:
            return f"did you mean {' or '.join(map(repr, close))}?"
    return f"the names are {', '.join(map(repr, names[:_SHOWN]))}{', …' * (len(names) > _SHOWN)}"


def _shown(rule: Rule) -> str:
    singles = rule if isinstance(rule, tuple) else (rule,)
    return " or ".join(repr(one) if isinstance(one, str) else getattr(one, "__name__", repr(one)) for one in singles)


# --- in and out ---------------------------------------------------------------------------------------------------------------


def _read(params: Params) -> tuple[list[Entry], nn.Module | None]:
    """The parameters in order, each once; the model, if it is one."""
    if isinstance(params, nn.Module):
        return _of_model(params), params
    if isinstance(params, Tensor):
        raise TypeError("groups are made of a model, of its named_parameters(), or of groups, not of one tensor")
    if not isinstance(params, Iterable):
        raise TypeError(f"groups are made of a model, of its named_parameters(), or of groups, not of {type(params).__name__}")
    items = list(params)
    if not items:
        raise ValueError("there are no parameters to group")
    groups: list[Any] = items if isinstance(items[0], Mapping) else [{"params": items}]
    entries: dict[int, Entry] = {}
    for number, group in enumerate(groups):
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"group {number} must be a dict with `params`, not {group!r}"[:200])
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for name, p in _named(group, number):
            known = entries.get(id(p))
            if known is not None and (name in known.names or known.origin != (number,)):
                raise ValueError(f"{name!r} stands twice in what is to be grouped, first as {known.name!r}")
            names = (name,) if known is None else (*known.names, name)
            entries[id(p)] = Entry(p, names, options=options, origin=(number,))
    return list(entries.values()), None


def _named(group: Mapping[str, Any], number: int) -> list[tuple[str, Tensor]]:
    params = group["params"]
    members = [params] if isinstance(params, Tensor) else list(params)
    if "param_names" in group:
        members = list(zip(group["param_names"], members, strict=True))
    for member in members:
        if not (isinstance(member, tuple | list) and len(member) == 2 and isinstance(member[0], str)):
            raise TypeError(
                f"the parameters of group {number} have no names: give the model or its named_parameters(), not parameters()"
            )
    return [(name, p) for name, p in members]


def _of_model(model: nn.Module) -> list[Entry]:
    names: dict[int, tuple[str, ...]] = {}
    found: dict[int, Tensor] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names[id(p)] = (*names.get(id(p), ()), name)
        found[id(p)] = p
    parts: dict[int, set[Literal["norm", "embedding"]]] = {key: set() for key in found}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            if isinstance(module, _NORMS):
                parts[id(p)].add("norm")
            if isinstance(module, _EMBEDDINGS):
                parts[id(p)].add("embedding")
    if not found:
        raise ValueError(f"this {type(model).__name__} has no parameters to group")
    return [Entry(p, names[key], frozenset(parts[key])) for key, p in found.items()]


def _grouped(entries: Sequence[Entry], frozen: bool) -> list[Group]:
    """Those of one origin with equal options together, in the order of origins, then of their first."""
    groups: list[tuple[tuple[int, ...], Group]] = []
    for entry in sorted(entries, key=lambda entry: entry.origin):
        if not (frozen or entry.p.requires_grad):
            continue
        for origin, group in groups:
            if origin == entry.origin and _same(group, entry.options):
                group["params"].append((entry.name, entry.p))
                break
        else:
            groups.append((entry.origin, {"params": [(entry.name, entry.p)], **entry.options}))
    if not groups:
        raise ValueError("all parameters are frozen (requires_grad=False): give frozen=True to group them all the same")
    return [group for _, group in groups]


def _same(group: Group, options: Mapping[str, Any]) -> bool:
    if group.keys() - {"params"} != options.keys():
        return False
    return all(group[k] is v or (not isinstance(v, Tensor) and bool(group[k] == v)) for k, v in options.items())
