"""Which modifiers go together on which base, written from what they say they do and not taken from the compiler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

BASES = {
    "AdamW": "AdamW without weight_decay, amsgrad",
    "Lion": "Lion without weight_decay",
    "ADOPT": "ADOPT without weight_decay",
}
"""Bases without what a modifier would bring a second time."""

TERMS = {
    "accumulated": "accumulated(0.4)",
    "ademamix": "ademamix(alpha = 2.0, beta3 = 0.98)",
    "agc": "agc(share = 0.3, least = 0.5)",
    "atan2": "atan2",
    "balanced": "balanced(1e-3)",
    "cautious": "cautious",
    "cautious_decay": "cautious_decay(0.3)",
    "centralize": "centralize",
    "clip_global_norm": "clip_global_norm(0.3)",
    "clip_group_norm": "clip_group_norm(0.3)",
    "clip_norm": "clip_norm(0.3)",
    "clip_rms": "clip_rms(0.05)",
    "clip_value": "clip_value(0.3)",
    "decoupled": "decoupled(0.3)",
    "gradient_noise": "gradient_noise(0.05)",
    "grams": "grams",
    "grokfast": "grokfast(0.9)",
    "independent": "independent(0.03)",
    "l2": "l2(0.3)",
    "lookahead": "lookahead(k = 2, alpha = 0.4)",
    "mars": "mars(0.3)",
    "max_norm": "max_norm(0.9)",
    "nesterov": "nesterov",
    "orthograd": "orthograd",
    "proximal": "proximal(0.3)",
    "trust_ratio": "trust_ratio",
    "undebiased": "undebiased",
    "weight_ema": "weight_ema(0.9)",
}
"""Every shipped modifier with arguments that show within three steps."""

ONE_OF = (
    {"agc", "clip_global_norm", "clip_group_norm", "clip_norm", "clip_value"},
    {"l2"},
    {"cautious", "grams"},
    {"trust_ratio", "clip_rms"},
    {"decoupled", "independent", "cautious_decay"},
)
"""What takes one place in the order of effects, so that only one of each can be there (`stage-taken`)."""

DECAYS = frozenset({"l2", "decoupled", "independent", "cautious_decay", "proximal"})
"""What calls a hyper `weight_decay` outside, so that only one can be there (`name-clash`)."""

NAMED = frozenset(TERMS) - {"centralize", "nesterov", "orthograd", "undebiased"}
"""What is refused beside a second one of its kind: where no place is taken, for the names outside that both would have."""

REWRITTEN = {"undebiased", "accumulated"}
"""What takes the bias correction of the first average out (`rewrites-overlap`)."""

UNFIT = {
    "AdamW": {},
    "Lion": {
        "accumulated": "pattern-found-twice",  # two averages of the gradient
        "ademamix": "missing-point",  # no numerator: the sign is taken of a mix
        "atan2": "pattern-not-found",  # nothing is divided
        "grams": "missing-point",
        "nesterov": "missing-point",
        "undebiased": "pattern-not-found",  # nothing is debiased
    },
    "ADOPT": {
        "accumulated": "pattern-not-found",  # it takes a bias correction out, and nothing is debiased
        "atan2": "pattern-not-found",  # the division is by a maximum, not by a sum
        "undebiased": "pattern-not-found",
    },
}
"""What a base cannot take, alone or with others, and the code of the refusal."""

SAME_STAGE = (
    {"centralize", "gradient_noise", "grokfast", "mars", "orthograd"},
    {"accumulated", "ademamix", "nesterov"},
    {"balanced", "max_norm", "proximal"},
    {"lookahead", "weight_ema"},
)
"""What acts from left to right, so that the order of writing counts."""

Pair: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Combination:
    """An ordered pair of modifiers on a base of `BASES`."""

    base: str
    pair: Pair

    @property
    def label(self) -> str:
        """The test's id."""
        return " + ".join((self.base, *self.pair))

    @property
    def terms(self) -> tuple[str, str]:
        """As `--with` takes them."""
        return TERMS[self.pair[0]], TERMS[self.pair[1]]

    @property
    def conflict(self) -> str | None:
        """The code with which the two are refused as a pair, or None."""
        names = set(self.pair)
        alike = self.pair[0] == self.pair[1]
        if any(names <= group for group in ONE_OF):
            return "stage-taken"
        if names <= DECAYS or (alike and names <= NAMED):
            return "name-clash"
        return "rewrites-overlap" if names <= REWRITTEN and not self.unfit else None

    @property
    def unfit(self) -> dict[str, str]:
        """Which of the two the base cannot take, and the code."""
        return {name: code for name, code in UNFIT[self.base].items() if name in self.pair}

    @property
    def legal(self) -> bool:
        """Whether it can be built."""
        return self.conflict is None and not self.unfit

    @property
    def ordered(self) -> bool:
        """Whether the order of writing counts."""
        return any(set(self.pair) <= group for group in SAME_STAGE)


def combinations() -> Iterator[Combination]:
    """Every ordered pair on every base, a modifier with itself included."""
    for base in BASES:
        for first in TERMS:
            for second in TERMS:
                yield Combination(base, (first, second))


LEGAL = tuple(c for c in combinations() if c.legal)
ILLEGAL = tuple(c for c in combinations() if not c.legal)


def sample() -> frozenset[Combination]:
    """What every run builds: all pairs whose order counts on one base; and each modifier that a base takes leads a pair."""
    chosen = {c for c in LEGAL if c.ordered and c.base == "ADOPT"}
    for number, base in enumerate(BASES):
        for place, first in enumerate(TERMS):
            partners = [c for c in LEGAL if c.base == base and c.pair[0] == first]
            if partners and chosen.isdisjoint(partners):
                chosen.add(partners[(7 * place + 5 * number) % len(partners)])
    return frozenset(chosen)
