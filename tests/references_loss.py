"""Cases of specs that read the loss, of LOMO and of AdaGC, compared with pytorch_optimizer where it computes them.

Its AliG takes the norm in float32. Its Emo optimizers choose between two equal numbers by their rounding errors; here they have
the one that the maths gives.
"""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import pytorch_optimizer as po
import torch

from tests import reference_loops_loss as loops
from tests.reference_cases import Array, Case, case, loop
from tests.reference_loops_model import of_one
from tests.references_rows import arranged

B = (0.8, 0.95)


class AliG(po.AliG):
    """With its norm in float64, and its largest step size where schedulers find it."""

    def __init__(self, params: Any, lr: float, **arguments: Any) -> None:
        super().__init__(params, max_lr=lr, **arguments)

    def compute_step_size(self, loss: Any) -> float:
        squares = [p.grad.square().sum().item() for group in self.param_groups for p in group["params"] if p.grad is not None]
        return float(loss) / (math.fsum(squares) + 1e-6)

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["max_lr"] = group.get("lr", group["max_lr"])
        return super().step(closure)


def _trend(ema: dict[str, float]) -> float:
    return math.tanh((ema["long"] - ema["short"]) / max(ema["long"], 1e-5))


class Exact(torch.optim.Optimizer):
    """One of the Emo optimizers whose trend is that of the maths, and that shows its averages as states."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        with patch("pytorch_optimizer.optimizer.emonavi.compute_scalar", _trend):
            loss = super().step(closure)
        self.steps += 1
        averages = self.state["ema"]  # type: ignore[index]
        shown = {"k": float(self.steps), "ema_short": averages["short"], "ema_long": averages["long"]}
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] |= {key: torch.tensor(value) for key, value in shown.items()}
        return loss


class EmoNavi(Exact, po.EmoNavi):
    pass


class EmoLynx(Exact, po.EmoLynx):
    pass


class EmoFact(Exact, po.EmoFact):
    pass


def of_emofact(states: dict[str, Array], shape: tuple[int, ...]) -> dict[str, Array]:
    """Averages of rows and columns of one matrix."""
    shapes = {"exp_avg_r": (-1, 1), "exp_avg_c": (1, -1)}
    return {key: value.reshape(shapes.get(key, value.shape)) for key, value in states.items()}


adagc = of_one(loops.adagc)
alig, sps, lomo = of_one(loops.alig), of_one(loops.sps), of_one(loops.lomo)
emonavi, emolynx, emofact = of_one(loops.emonavi), of_one(loops.emolynx), of_one(loops.emofact)
FREE = "parameter_free"
L2 = {"use_shadow": True, "weight_decay": 0.3, "weight_decouple": False}
OURS = {"use_shadow": True, "weight_decay": 0.3, "decoupled_weight_decay": False}

CASES: tuple[Case, ...] = (
    loop(f"{FREE}/alig", alig, lr=0.02),
    loop(f"{FREE}/alig", alig, lr=0.05, momentum=0.9, max_norm=1.5),
    loop(f"{FREE}/alig", alig, lr=0.05, momentum=0.5, adjusted_momentum=True, max_norm=2.0, eps=0.1),
    case(f"{FREE}/alig", AliG, {}, lr=0.02, eps=1e-6),
    case(f"{FREE}/alig", AliG, {"momentum": 0.9}, lr=0.05, momentum=0.9, eps=1e-6),
    case(
        f"{FREE}/alig",
        AliG,
        {"momentum": 0.7, "adjusted_momentum": True},
        lr=0.05, momentum=0.7, adjusted_momentum=True, eps=1e-6,
    ),
    loop(f"{FREE}/sps", sps, lr=0.05),
    loop(f"{FREE}/sps", sps, lr=0.1, c=0.2, f_star=1.0, eps=0.1),
    loop(f"{FREE}/sps", sps, lr=0.7, c=1.0, smoothing=1.2, eta0=0.01),
    loop("momentum/lomo", lomo, lr=0.05),
    loop("momentum/lomo", lomo, lr=0.05, clip_grad_norm=2.0),
    loop("momentum/lomo", lomo, lr=0.05, clip_grad_norm=3.0, clip_grad_value=0.5),
    loop("adam/adagc", adagc, lr=0.01, lambda_abs=1.0, warmup_steps=9),
    loop("adam/adagc", adagc, lr=0.01, betas=B, eps=1e-3, lambda_abs=3.0, warmup_steps=5, beta=0.8, weight_decay=0.3),
    loop("adaptive/emonavi", emonavi, lr=0.01),
    loop("adaptive/emonavi", emonavi, lr=0.01, betas=B, eps=1e-3, use_shadow=True, shadow_weight=0.3, weight_decay=0.3),
    case("adaptive/emonavi", EmoNavi, lr=0.01, betas=B, eps=1e-3, use_shadow=True, shadow_weight=0.3, weight_decay=0.3),
    case("adaptive/emonavi", EmoNavi, L2, lr=0.01, **OURS),
    loop("sign/emolynx", emolynx, lr=0.01),
    loop("sign/emolynx", emolynx, lr=0.01, betas=B, use_shadow=True, weight_decay=0.0),
    case("sign/emolynx", EmoLynx, lr=0.01, betas=B, use_shadow=True, weight_decay=0.3),
    loop("sign/emolynx", emolynx, lr=0.01, **OURS),
    loop("factored/emofact", emofact, lr=0.01),
    loop("factored/emofact", emofact, lr=0.01, betas=B, eps=1e-3, use_shadow=True, weight_decay=0.0),
    arranged("factored/emofact", EmoFact, None, of_emofact, lr=0.01, betas=B, eps=1e-3, use_shadow=True, weight_decay=0.3),
    loop("factored/emofact", emofact, lr=0.01, **OURS),
)  # fmt: skip
