"""The cells of adv_optm's feature matrix: our optimizer with our modifiers, and its optimizer with its flags.

adv_optm deviates from the papers in places. Where a flag or a setting of its own takes a deviation out, the cell says so in
`before`; where none does, the cell's spec says the deviation in the language.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import adv_optm
import torch

from optc.compiler.compose.library import named, shipped

Before: TypeAlias = Callable[[torch.optim.Optimizer, int], None]
"""Changes a setting of the reference's before step number t (1, 2, …)."""

EXACT = 1e-12


@dataclass(frozen=True, slots=True)
class Cell:
    """A feature of an optimizer: `spec` (a shipped name or a text) with `modifiers`, against `reference` with `arguments`."""

    optimizer: str
    feature: str
    spec: str
    modifiers: tuple[str, ...]
    reference: type[torch.optim.Optimizer]
    hypers: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    before: Before | None = None
    dense: bool = False
    """Without zeros in the gradients."""
    beside: str = ""
    """Modifiers in a file beside the spec."""
    factor: float = 1.0
    """How many times adv_optm's first average ours is."""
    drift: bool = False
    """With gradients that have one direction for the most part."""
    lr: float = 0.01

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self.feature.split(" + "))

    @property
    def label(self) -> str:
        """The test's id."""
        return f"{self.optimizer} {self.feature}: {' + '.join(self.modifiers)}"


BETAS, ALPHA, BETA3 = (0.8, 0.95), 2.0, 0.98
ADAM: Mapping[str, Any] = {"betas": BETAS, "eps": 1e-3, "weight_decay": 0.3}
LION: Mapping[str, Any] = {"betas": BETAS, "weight_decay": 0.3}
ADEMAMIX, ACCUMULATED, SHARE = f"ademamix(alpha = {ALPHA}, beta3 = {BETA3})", f"accumulated({ALPHA})", 'cautious("share")'
SLOW: Mapping[str, Any] = {"use_AdEMAMix": True, "alpha": ALPHA, "beta3_ema": BETA3}
SUMS: Mapping[str, Any] = {"betas": BETAS, "eps": 1e-3, "alpha": ALPHA, "bias_correction1": True, "weight_decay": 0.3}

# --- Adam ---------------------------------------------------------------------------------------------------------------------

ADAM_FACTOR = 1.2732395
"""adv_optm's Adam has 4/π with eight digits; its ADOPT has all."""

RAW = "optimizer RawAdam = AdamW without amsgrad + undebiased\n"
"""Without bias correction the places where adv_optm puts it do not matter."""

LATE = f"""\
modifier late:
    "atan2 of the average as it is; what comes out is debiased."
    rewrite (m): debias(m, beta1) -> m
    rewrite (a, b, c): a/(sqrt(b) + c) -> {ADAM_FACTOR}*atan2(a, sqrt(b))/(1 - beta1^t)
optimizer LateAdam = AdamW
"""
"""adv_optm divides by 1 - β1^t after atan2, which then is not bounded in the first steps; the paper divides its argument."""


def slow_not_debiased(optimizer: torch.optim.Optimizer, t: int) -> None:
    """adv_optm divides the slow average by 1 - β1^t as well, which the paper does not."""
    optimizer.param_groups[0]["alpha"] = ALPHA * (1 - BETAS[0] ** t)


def adam(feature: str, modifiers: tuple[str, ...], spec: str = "adamw", before: Before | None = None, **flags: Any) -> Cell:
    return Cell("Adam_Adv", feature, spec, modifiers, adv_optm.AdamW_adv, ADAM, {**ADAM, **flags}, before)


ADAM_CELLS = (
    adam("AdEMAMix", (ADEMAMIX,), before=slow_not_debiased, **SLOW),
    adam("AdEMAMix", (ADEMAMIX,), RAW, use_bias_correction=False, **SLOW),
    adam("OrthoGrad", ("orthograd",), orthogonal_gradient=True),
    adam("Grams", ("grams",), grams_moment=True),
    adam("Cautious", (SHARE,), cautious_mask=True),
    adam("atan2", (f"atan2({ADAM_FACTOR})",), RAW, use_bias_correction=False, use_atan2=True),
    adam("atan2", ("late",), LATE, use_atan2=True),
    adam("AdEMAMix + atan2", (ADEMAMIX, f"atan2({ADAM_FACTOR})"), RAW, use_bias_correction=False, use_atan2=True, **SLOW),
    adam("Grams + atan2", ("grams", "late"), LATE, grams_moment=True, use_atan2=True),
    adam("Cautious + atan2", ("late", SHARE), LATE, cautious_mask=True, use_atan2=True),
    adam("OrthoGrad + Grams", ("orthograd", "grams"), orthogonal_gradient=True, grams_moment=True),
    adam("OrthoGrad + AdEMAMix", ("orthograd", ADEMAMIX), before=slow_not_debiased, orthogonal_gradient=True, **SLOW),
)

# --- ADOPT --------------------------------------------------------------------------------------------------------------------

SUMMED_MODIFIER = """\
modifier summed(alpha = 0.0 in [0, inf)):
    "Sums what the base averages, and mixes the present one in, for a base that has no bias correction to leave out."
    rewrite (m, b): ema(m, g, b) -> b*m + g
    mix m_hat: m_hat = m_hat + alpha*g
"""


def changed(spec: str, *changes: tuple[str, str]) -> str:
    """A shipped spec with parts of its text replaced."""
    text = named(shipped()[spec]).text
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


EPS_ADDED = changed("adopt", ("g/max(√v, ε)", "g/(√v + ε)"))
"""adv_optm adds eps; the paper takes the larger."""


def like_the_paper(optimizer: torch.optim.Optimizer, t: int) -> None:
    """With atan2, adv_optm's ADOPT moves in its first step as well."""
    optimizer.use_atan2 = t > 1  # type: ignore[attr-defined]


def adopt(feature: str, modifiers: tuple[str, ...], before: Before | None = None, **flags: Any) -> Cell:
    """With atan2 nothing is clipped, and 4/π stands before the average here, behind it there."""
    atan2 = "use_atan2" in flags
    return Cell(
        "Adopt_Adv", feature, EPS_ADDED, modifiers, adv_optm.Adopt_adv,
        {**ADAM, "decoupled_weight_decay": True, "clip": not atan2}, {**ADAM, **flags}, before,
        beside=SUMMED_MODIFIER, factor=4 / math.pi if atan2 else 1.0,
    )  # fmt: skip


def shipped_adopt(feature: str, modifiers: tuple[str, ...], **flags: Any) -> Cell:
    """The shipped ADOPT: without eps, and where no second moment is 0, adding it and taking the larger are the same."""
    hypers = {**ADAM, "eps": 0.0}
    ours = {**hypers, "decoupled_weight_decay": True}
    return Cell("Adopt_Adv", feature, "adopt", modifiers, adv_optm.Adopt_adv, ours, {**hypers, **flags}, dense=True)


ADOPT_CELLS = (
    adopt("AdEMAMix", (ADEMAMIX,), **SLOW),
    adopt("Simplified_AdEMAMix", (f"summed({ALPHA})",), Simplified_AdEMAMix=True, alpha_grad=ALPHA),
    adopt("OrthoGrad", ("orthograd",), orthogonal_gradient=True),
    adopt("Grams", ("grams",), grams_moment=True),
    adopt("Cautious", (SHARE,), cautious_mask=True),
    adopt("atan2", ("atan2",), like_the_paper, use_atan2=True),
    adopt("Cautious + atan2", (SHARE, "atan2"), like_the_paper, cautious_mask=True, use_atan2=True),
    adopt("AdEMAMix + atan2", (ADEMAMIX, "atan2"), like_the_paper, use_atan2=True, **SLOW),
    shipped_adopt("AdEMAMix", (ADEMAMIX,), **SLOW),
    shipped_adopt("OrthoGrad", ("orthograd",), orthogonal_gradient=True),
    shipped_adopt("Grams", ("grams",), grams_moment=True),
    shipped_adopt("Cautious", (SHARE,), cautious_mask=True),
    shipped_adopt("OrthoGrad + AdEMAMix", ("orthograd", ADEMAMIX), orthogonal_gradient=True, **SLOW),
    shipped_adopt("OrthoGrad + Grams", ("orthograd", "grams"), orthogonal_gradient=True, grams_moment=True),
    shipped_adopt("OrthoGrad + Cautious", ("orthograd", SHARE), orthogonal_gradient=True, cautious_mask=True),
)

# --- Prodigy ------------------------------------------------------------------------------------------------------------------

PRODIGY: Mapping[str, Any] = {**ADAM, "d0": 0.02}
POINTS = """\
        g = d·g
        m ← ema(m, g, β₁)
        v ← ema(v, g², β₂)
        m̂ = m
        u = m̂/(√v + d·ε)
"""
WITH_POINTS = changed(
    "prodigy",
    ("        m ← ema(m, d·g, β₁)\n        v ← ema(v, d²·g², β₂)\n", ""),
    ("        L = total", f"{POINTS}        L = total"),
    ("        u = m/(√v + d·ε)\n", ""),
)
"""Prodigy with its points named: what is averaged stands for the gradient from then on. adv_optm has eps in the old d."""


def lr_of_this_step(optimizer: torch.optim.Optimizer, t: int) -> None:
    """adv_optm's Prodigy multiplies lr and d at the end of a step, so that a new lr is in force one step late."""
    optimizer.dlr = optimizer.d * optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]


def prodigy(feature: str, modifiers: tuple[str, ...], ours: Mapping[str, Any] = MappingProxyType({}), **flags: Any) -> Cell:
    """With d from all entries of a tensor; adv_optm takes every eleventh where it is not told so."""
    return Cell(
        "Prodigy_Adv", feature, WITH_POINTS, modifiers, adv_optm.Prodigy_adv, {**PRODIGY, **ours},
        {**PRODIGY, "slice_p": 1, **flags}, lr_of_this_step, beside=SUMMED_MODIFIER, drift=True, lr=1.0,
    )  # fmt: skip


def shipped_prodigy(feature: str, modifiers: tuple[str, ...], **flags: Any) -> Cell:
    """The shipped Prodigy: without eps, and where no second moment is 0, it does not matter of which d eps is."""
    cell = prodigy(feature, modifiers, {"eps": 0.0}, eps=0.0, **flags)
    return replace(cell, spec="prodigy", beside="", dense=True)


PRODIGY_CELLS = (
    prodigy("AdEMAMix", (ADEMAMIX,), **SLOW),
    prodigy(
        "Simplified_AdEMAMix", (f"summed({ALPHA})",), {"d_coef": 1 / ALPHA}, Simplified_AdEMAMix=True, alpha_grad=ALPHA
    ),  # adv_optm divides d_coef by alpha_grad
    prodigy("OrthoGrad", ("orthograd",), orthogonal_gradient=True),
    prodigy("Grams", ("grams",), grams_moment=True),
    prodigy("Cautious", (SHARE,), cautious_mask=True),
    prodigy("atan2", (f"atan2({ADAM_FACTOR})",), use_atan2=True),
    prodigy("AdEMAMix + atan2", (ADEMAMIX, f"atan2({ADAM_FACTOR})"), use_atan2=True, **SLOW),
    prodigy("Grams + atan2", ("grams", f"atan2({ADAM_FACTOR})"), grams_moment=True, use_atan2=True),
    prodigy("Cautious + atan2", (SHARE, f"atan2({ADAM_FACTOR})"), cautious_mask=True, use_atan2=True),
    prodigy("OrthoGrad + Grams", ("orthograd", "grams"), orthogonal_gradient=True, grams_moment=True),
    prodigy("OrthoGrad + AdEMAMix", ("orthograd", ADEMAMIX), orthogonal_gradient=True, **SLOW),
    shipped_prodigy("OrthoGrad", ("orthograd",), orthogonal_gradient=True),
    shipped_prodigy("Cautious", (SHARE,), cautious_mask=True),
    shipped_prodigy("atan2", (f"atan2({ADAM_FACTOR})",), use_atan2=True),
    shipped_prodigy("OrthoGrad + Cautious", ("orthograd", SHARE), orthogonal_gradient=True, cautious_mask=True),
    shipped_prodigy("OrthoGrad + atan2", ("orthograd", f"atan2({ADAM_FACTOR})"), orthogonal_gradient=True, use_atan2=True),
)

# --- Simplified AdEMAMix, Lion ------------------------------------------------------------------------------------------------


def not_divided(optimizer: torch.optim.Optimizer, t: int) -> None:
    """adv_optm divides by the sum of the weights, 1 + β1 + …, as a bias correction, which the paper leaves out by default."""
    optimizer.param_groups[0]["lr"] *= (1 - BETAS[0] ** t) / (1 - BETAS[0])


def simplified(feature: str, modifiers: tuple[str, ...], **flags: Any) -> Cell:
    arguments = {**ADAM, "alpha_grad": ALPHA, **flags}
    reference = adv_optm.Simplified_AdEMAMix
    return Cell("Simplified_AdEMAMix", feature, "simplified_ademamix", modifiers, reference, SUMS, arguments)


def lion(feature: str, modifiers: tuple[str, ...], **flags: Any) -> Cell:
    return Cell("Lion_Adv", feature, "lion", modifiers, adv_optm.Lion_adv, LION, {**LION, "nnmf_factor": False, **flags})


UNDECAYED: Mapping[str, Any] = {"betas": BETAS, "eps": 1e-3, "weight_decay": 0.0}

CELLS = (
    *ADAM_CELLS,
    *ADOPT_CELLS,
    *PRODIGY_CELLS,
    simplified("Simplified_AdEMAMix", ()),
    simplified("OrthoGrad", ("orthograd",), orthogonal_gradient=True),
    Cell(
        "Simplified_AdEMAMix", "Simplified_AdEMAMix", "adamw", (ACCUMULATED,), adv_optm.Simplified_AdEMAMix, UNDECAYED,
        {**UNDECAYED, "alpha_grad": ALPHA}, not_divided,
    ),  # decay is by lr, which `not_divided` changes
    lion("OrthoGrad", ("orthograd",), orthogonal_gradient=True),
    lion("Cautious", (SHARE,), cautious_mask=True),
    lion("OrthoGrad + Cautious", ("orthograd", SHARE), orthogonal_gradient=True, cautious_mask=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Empty:
    """A cell that adv_optm leaves empty: what is built in it here, or the code with which it is refused."""

    spec: str
    modifiers: tuple[str, ...]
    code: str | None = None


SUMMED = "simplified_ademamix"

EMPTY = {
    ("Adam_Adv", "Simplified_AdEMAMix"): Empty("adamw", (ACCUMULATED,)),  # its own class there
    ("Simplified_AdEMAMix", "AdEMAMix"): Empty("adamw", (ACCUMULATED, ADEMAMIX)),
    ("Simplified_AdEMAMix", "Grams"): Empty(SUMMED, ("grams",)),
    ("Simplified_AdEMAMix", "Cautious"): Empty(SUMMED, (SHARE,)),
    ("Simplified_AdEMAMix", "atan2"): Empty(SUMMED, ("atan2",)),
    ("Lion_Adv", "AdEMAMix"): Empty("lion", (ADEMAMIX,), "missing-point"),  # a sign has no numerator …
    ("Lion_Adv", "Grams"): Empty("lion", ("grams",), "missing-point"),
    ("Lion_Adv", "Simplified_AdEMAMix"): Empty("lion", (ACCUMULATED,), "missing-point"),
    ("Lion_Adv", "atan2"): Empty("lion", ("atan2",), "pattern-not-found"),  # … and no division
}
"""Every empty cell of the matrix."""
