"""What the pages of schedules show and compare: settings that tell most, and the same in PyTorch or transformers.

The tests run every pair of `EQUAL` and every call: what stands here is written by hand, but not believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CALLS: Final[Mapping[str, str]] = {
    "constant": "warmup=100",
    "cosine": "T=1000, warmup=100",
    "cyclic": "up=2000",
    "exponential": "gamma=0.999",
    "hard_restarts": "T=1000, cycles=4",
    "inverse_sqrt": "warmup=400",
    "linear": "T=1000, warmup=100",
    "multi_step": "milestones=(300, 600)",
    "one_cycle": "T=1000",
    "polynomial": "T=1000, power=2.0",
    "ramp": "T=100, first=0.1",
    "restarts": "T=100, multiplier=2.0",
    "step_decay": "period=30",
    "warmup_stable_decay": "T=1000, warmup=100, decay=200",
}
"""How each is called in the examples of its page, in Python."""

IN_SPECS: Final[Mapping[str, str]] = {"multi_step": "m₁ = 300, m₂ = 600"}
"""The same in a composition, where it is not spelled alike."""

SHOWN: Final[Mapping[str, tuple[Mapping[str, Any], ...]]] = {
    "constant": ({"warmup": 300}, {"warmup": 600}),
    "cosine": ({"warmup": 100, "ratio": 0.1}, {"cycles": 1.5}),
    "cyclic": ({"up": 1000, "down": 3000}, {"scaling": "triangular2"}),
    "exponential": ({"gamma": 0.998}, {"gamma": 0.9995}),
    "hard_restarts": ({"cycles": 3}, {"cycles": 3, "warmup": 200}),
    "inverse_sqrt": ({"warmup": 4000}, {"timescale": 1000}),
    "linear": ({"warmup": 100}, {"ratio": 0.3}),
    "multi_step": ({"milestones": (300, 600)}, {"milestones": (200, 400, 800), "gamma": 0.5}),
    "one_cycle": ({"shape": "linear"}, {"three_phase": True, "rise": 0.4}),
    "polynomial": ({"power": 2.0}, {"power": 0.5, "warmup": 100}),
    "ramp": ({"first": 0.1}, {"T": 8, "first": 1.0, "final": 0.2}),
    "restarts": ({"multiplier": 2.0}, {"decay": 0.7}),
    "step_decay": ({"gamma": 0.5}, {"period": 45, "gamma": 0.3}),
    "warmup_stable_decay": ({"warmup": 100, "decay": 400}, {"warmup": 100, "decay": 400, "shape": "linear"}),
}
"""Settings that are drawn beside the defaults, two at most."""

SMALL: Final[Mapping[str, int]] = dict.fromkeys(
    ("constant", "hard_restarts", "inverse_sqrt", "multi_step", "warmup_stable_decay"), 1
)
"""Which of these the index shows, where it is not the first, the defaults."""

_TORCH, _THEIRS = "torch.optim.lr_scheduler.", "transformers."

EQUAL: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "constant": (
        ("Constant(warmup=100)", _THEIRS + "get_constant_schedule_with_warmup(optimizer, num_warmup_steps=100)"),
        ("Constant()", _THEIRS + "get_constant_schedule(optimizer)"),
    ),
    "cosine": (
        ("Cosine(T=1000, stay=False)", _TORCH + "CosineAnnealingLR(optimizer, T_max=1000)"),
        (
            "Cosine(T=1000, warmup=100, stay=False)",
            _THEIRS + "get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=100, num_training_steps=1000)",
        ),
        (
            "Cosine(T=1000, warmup=100, ratio=0.1, stay=False)",
            _THEIRS + "get_cosine_with_min_lr_schedule_with_warmup("
            "optimizer, num_warmup_steps=100, num_training_steps=1000, min_lr_rate=0.1)",
        ),
    ),
    "cyclic": (("Cyclic(up=200)", _TORCH + "CyclicLR(optimizer, base_lr=lr/10, max_lr=lr, step_size_up=200)"),),
    "exponential": (("Exponential(gamma=0.999)", _TORCH + "ExponentialLR(optimizer, gamma=0.999)"),),
    "hard_restarts": (
        (
            "HardRestarts(T=1000, warmup=100, cycles=4)",
            _THEIRS + "get_cosine_with_hard_restarts_schedule_with_warmup("
            "optimizer, num_warmup_steps=100, num_training_steps=1000, num_cycles=4)",
        ),
    ),
    "inverse_sqrt": (("InverseSqrt(warmup=100)", _THEIRS + "get_inverse_sqrt_schedule(optimizer, num_warmup_steps=100)"),),
    "linear": (
        (
            "Linear(T=1000, warmup=100)",
            _THEIRS + "get_linear_schedule_with_warmup(optimizer, num_warmup_steps=100, num_training_steps=1000)",
        ),
    ),
    "multi_step": (("MultiStep(milestones=(300, 600))", _TORCH + "MultiStepLR(optimizer, milestones=[300, 600])"),),
    "one_cycle": (("OneCycle(T=1000)", _TORCH + "OneCycleLR(optimizer, max_lr=lr, total_steps=1000)"),),
    "polynomial": (
        ("Polynomial(T=1000, power=2.0)", _TORCH + "PolynomialLR(optimizer, total_iters=1000, power=2.0)"),
        (
            "Polynomial(T=1000, warmup=100, last=1e-7)",
            _THEIRS + "get_polynomial_decay_schedule_with_warmup(optimizer, num_warmup_steps=100, num_training_steps=1000)",
        ),
    ),
    "ramp": (("Ramp()", _TORCH + "LinearLR(optimizer)"),),
    "restarts": (("Restarts(T=100, multiplier=2.0)", _TORCH + "CosineAnnealingWarmRestarts(optimizer, T_0=100, T_mult=2)"),),
    "step_decay": (("StepDecay(period=30)", _TORCH + "StepLR(optimizer, step_size=30)"),),
    "warmup_stable_decay": (
        (
            'WarmupStableDecay(T=1000, warmup=100, decay=200, shape="linear")',
            _THEIRS + "get_wsd_schedule("
            'optimizer, num_warmup_steps=100, num_stable_steps=700, num_decay_steps=200, decay_type="linear")',
        ),
    ),
}
"""What a group is given by a schedule here, and by a scheduler there, where its rate is `lr`."""
