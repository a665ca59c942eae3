"""Which update rules bitsandbytes and torchao have too, and what these call their states and hypers.

Neither library is imported: their state dicts are known by what is in them. bitsandbytes keeps the states of every rule as
`state1` and `state2` and its decay rates as `betas`, and does not say which rule a file belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from optc.runtime.codebook import Codebook
from optc.runtime.schema import Schema, Value

Library: TypeAlias = Literal["bitsandbytes", "torchao"]
LIBRARIES: tuple[Library, ...] = ("bitsandbytes", "torchao")


@dataclass(frozen=True, slots=True)
class Place:
    """Where bitsandbytes has a state: `state1` or `state2`, and which row of it where two share one."""

    number: int
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """An update rule that is the same here and there.

    `name` is the class there, `ours` the names of our specs. `places`: where each of our states is. `betas`: which of our
    hypers the elements of `betas` are, by key; an element that is None there has no effect and is 0. `renamed`: our hypers by
    the keys of others. `fixed`: what our further hypers have to be for the rule to be that one.
    """

    name: str
    ours: tuple[str, ...]
    places: Mapping[str, Place]
    betas: tuple[str | None, ...] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Value] = field(default_factory=dict)

    def belongs_to(self, schema: Schema) -> bool:
        """Whether an optimizer keeps all states of the rule per element."""
        return set(self.places) <= {state.key for state in schema.of_parameters if state.extent == "elem"}

    def has_hypers_of(self, schema: Schema) -> bool:
        """Whether an optimizer has the hypers without which the rule is none."""
        needed = {"lr", *(("betas",) if self.betas is None else filter(None, self.betas))}
        return needed <= {hyper.key for hyper in schema.hypers}


OF_BITSANDBYTES = (
    Rule(
        "AdEMAMix8bit",
        ("AdEMAMix",),
        {"exp_avg": Place(1, 0), "exp_avg_slow": Place(1, 1), "exp_avg_sq": Place(2)},
        renamed={"t_alpha": "alpha_warmup", "t_beta3": "beta3_warmup"},
    ),
    Rule(
        "AdamW8bit",
        ("AdamW", "Adam"),
        {"exp_avg": Place(1), "exp_avg_sq": Place(2)},
        fixed={"amsgrad": False, "decoupled_weight_decay": True},  # its Adam decays as its AdamW does
    ),
    Rule(
        "RMSprop8bit",
        ("RMSprop",),
        {"square_avg": Place(1)},
        ("alpha", None),  # its `momentum` stands here and is not read
        fixed={"momentum": 0.0, "centered": False},
    ),
    Rule("Adagrad8bit", ("Adagrad",), {"sum": Place(1)}, (None, None), fixed={"lr_decay": 0.0}),
    Rule("Lion8bit", ("Lion",), {"exp_avg": Place(1)}),
    Rule(
        "SGD8bit",
        ("SGD",),
        {"momentum_buffer": Place(1)},
        ("momentum", None),  # its `dampening` stands here and is not read
        fixed={"dampening": 0.0, "nesterov": False},
    ),
)
"""Those with more states first: where several keep states that an optimizer has, the first one is meant."""

OF_TORCHAO = (Rule("AdamW8bit", ("AdamW", "Adam"), {"exp_avg": Place(1), "exp_avg_sq": Place(2)}, fixed={"amsgrad": False}),)

_SHIPPED = ("", "8bit", "4bit", "Fp8", "Bf16")
_DTYPES = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def named(schema: Schema, rules: Sequence[Rule]) -> Rule | None:
    """The rule that an optimizer is by its name, be it `AdamW8bit` or `AdamW_m_dynamic8` (as `optc.compile` has it)."""
    for rule in rules:
        own = any(re.fullmatch(name + _tail(schema), schema.name) for name in rule.ours)
        if own and rule.belongs_to(schema) and rule.has_hypers_of(schema):
            return rule
    return None


def _tail(schema: Schema) -> str:
    """A pattern of what may follow: how ours are shipped, or states and storages with settings (`_m_dynamic8_block_64`)."""
    kept = [state.storage for state in schema.states if state.storage is not None]
    storages = {one.name if isinstance(one, Codebook) else _DTYPES[one] for one in kept}
    words = {re.split(r"\W", storage)[0] for storage in storages} | {state.name for state in schema.states}
    return rf"(?:{'|'.join(_SHIPPED)}|(?:_(?:{'|'.join(map(re.escape, sorted(words)))}|block|smallest|\d+))+)"
