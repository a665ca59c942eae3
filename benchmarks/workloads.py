"""What is optimized: sets of parameters, every shipped spec, and the same optimizers of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

import optc
from benchmarks import traffic
from benchmarks.timing import Contestant
from benchmarks.traffic import FLOAT32, Precision, Traffic
from optc.generated import OPTIMIZERS
from optc.runtime.schema import Schema

SPECS = Path(__file__).resolve().parent.parent / "specs"
APART = ("modifiers", "storages", "schedules", "low_memory")
"""Folders of specs that are measured elsewhere, or are no optimizers."""
SLOW_IN_PYTORCH = frozenset({"sgld", "psgld"})
"""Whose PyTorch code draws random numbers word by word: a step on 50 M parameters takes a minute."""
SEED = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """The same mathematics in another library; `hypers` where its defaults differ from the spec's."""

    label: str
    module: str
    name: str
    hypers: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """A shipped spec with some hypers, and its peers. The first peer is the one that results are compared with."""

    spec: str
    hypers: Mapping[str, object] = field(default_factory=dict)
    peers: tuple[Peer, ...] = ()

    @property
    def label(self) -> str:
        """The spec's name and the hypers that are not the defaults."""
        return " ".join([self.spec, *(f"{k}={v}" for k, v in self.hypers.items())])


def _torch(name: str, *, fused: bool = False, **hypers: object) -> tuple[Peer, ...]:
    foreach = Peer("torch foreach", "torch.optim", name, {"foreach": True, **hypers})
    return (Peer("torch fused", "torch.optim", name, {"fused": True, **hypers}), foreach) if fused else (foreach,)


def _po(name: str, **hypers: object) -> tuple[Peer, ...]:
    return (Peer("pytorch_optimizer", "pytorch_optimizer", name, hypers),)


_MOMENTUM = {"momentum": 0.9}
_SAME_DEFAULTS = {
    "yogi": "Yogi",
    "adabound": "AdaBound",
    "madgrad": "MADGRAD",
    "qhadam": "QHAdam",
    "diffgrad": "DiffGrad",
    "adamod": "AdaMod",
    "laprop": "LaProp",
    "grams": "Grams",
    "mars": "MARS",
    "exadam": "EXAdam",
    "fromage": "Fromage",
    "novograd": "NovoGrad",
    "stable_adamw": "StableAdamW",
    "adanorm": "AdaNorm",
    "fadam": "FAdam",
    "adafactor": "AdaFactor",
    "came": "CAME",
    "nero": "Nero",
    "adamp": "AdamP",
    "sgdp": "SGDP",
    "adalite": "Adalite",
    "racs": "RACS",
    "adai": "Adai",
    "dadapt_adam": "DAdaptAdam",
    "dadapt_sgd": "DAdaptSGD",
    "dadapt_adagrad": "DAdaptAdaGrad",
    "dadapt_lion": "DAdaptLion",
    "prodigy": "Prodigy",
    "emonavi": "EmoNavi",
    "emolynx": "EmoLynx",
    "emofact": "EmoFact",
    "schedulefree_sgd": "ScheduleFreeSGD",
    "schedulefree_adamw": "ScheduleFreeAdamW",
    "schedulefree_radam": "ScheduleFreeRAdam",
}
CASES = (
    Case("adamw", peers=_torch("AdamW", fused=True)),
    Case("adam", peers=_torch("Adam", fused=True)),
    Case("sgd", peers=_torch("SGD", fused=True)),
    Case("sgd", _MOMENTUM, _torch("SGD", fused=True, **_MOMENTUM)),
    Case("adagrad", peers=_torch("Adagrad", fused=True)),
    Case("nadam", peers=_torch("NAdam")),
    Case("radam", peers=_torch("RAdam")),
    Case("adamax", peers=_torch("Adamax")),
    Case("adadelta", peers=_torch("Adadelta")),
    Case("rmsprop", peers=_torch("RMSprop")),
    Case("rprop", peers=_torch("Rprop")),
    Case("asgd", peers=_torch("ASGD")),
    Case("torch_adafactor", peers=_torch("Adafactor")),
    Case("lion", peers=_po("Lion")),
    Case("adopt", peers=_po("ADOPT")),
    Case("ademamix", peers=_po("AdEMAMix")),
    Case("simplified_ademamix", peers=_po("SimplifiedAdEMAMix")),
    Case("adan", peers=_po("Adan")),
    Case("adabelief", peers=_po("AdaBelief")),
    Case("sgdw", _MOMENTUM, _po("SGDW", **_MOMENTUM)),
    Case("signsgd", peers=_po("SignSGD", momentum=0.0)),
    Case("signum", peers=_po("SignSGD")),
    Case("tiger", peers=_po("Tiger")),
    *(Case(spec, peers=_po(name)) for spec, name in _SAME_DEFAULTS.items()),
    Case("lamb", peers=_po("Lamb")),
    Case("lars", peers=_po("LARS")),
    Case("alig", peers=_po("AliG", max_lr=0.1)),
)


def cases() -> list[Case]:
    """All of `CASES`, and every other shipped spec with its defaults; `cpu_storage` has those that keep states as codes."""
    known = {case.spec for case in CASES}
    shipped = sorted(path.stem for path in SPECS.rglob("*.opt") if path.parent.name not in APART)
    return [case for case in CASES if case.spec in shipped] + [Case(name) for name in shipped if name not in known]


def chosen(only: Sequence[str]) -> list[Case]:
    """The cases of the named specs; all without names."""
    return [case for case in cases() if not only or case.spec in only]


def class_name(spec: str) -> str:
    """The generated class of a shipped spec."""
    return next(name for name, module in OPTIMIZERS.items() if module == spec)


def step_passes(case: Case, precision: Precision = FLOAT32) -> tuple[Traffic, ...]:
    """Bytes that each pass of a step moves per element, by the plan, in the variant that the hypers select."""
    return traffic.step_passes(schema_of(case.spec), case.hypers, precision)


def step_traffic(case: Case, precision: Precision = FLOAT32) -> Traffic:
    """Bytes that one step moves per element."""
    return traffic.step_bytes(schema_of(case.spec), case.hypers, precision)


def schema_of(spec: str) -> Schema:
    """The schema of a shipped spec's generated class."""
    schema: Schema = getattr(import_module(f"optc.generated.{spec}"), class_name(spec)).schema
    return schema


def large(scale: float = 1.0) -> list[tuple[int, ...]]:
    """50.4 M parameters: six matrices of 4096 x 2048, sixteen vectors."""
    return [(max(1, round(4096 * scale)), 2048)] * 6 + [(2048,)] * 16


def many(scale: float = 1.0) -> list[tuple[int, ...]]:
    """2.08 M parameters in 1,000 tensors: 500 of 64 x 64, 500 of 64."""
    count = max(1, round(500 * scale))
    return [(64, 64)] * count + [(64,)] * count


@dataclass(frozen=True, slots=True)
class Model:
    """Parameters with two sets of gradients: training never finds a gradient at the address of the one before."""

    parameters: list[torch.nn.Parameter]
    gradients: tuple[list[torch.Tensor], list[torch.Tensor]]

    @staticmethod
    def of(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float32, device: str = "cpu") -> Model:
        """The same values for every contestant. The second set of gradients exists for small models only."""
        generator = torch.Generator(device).manual_seed(SEED)

        def normal(scale: float) -> list[torch.Tensor]:
            return [torch.randn(s, generator=generator, device=device, dtype=dtype).mul_(scale) for s in shapes]

        parameters = [torch.nn.Parameter(x) for x in normal(0.02)]
        first = normal(0.01)
        second = normal(0.01) if sum(x.numel() for x in first) < 1 << 24 else first
        for p, g in zip(parameters, first, strict=True):
            p.grad = g
        return Model(parameters, (first, second))

    @property
    def elements(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters)

    def next_gradients(self) -> Callable[[], None]:
        """A function that gives every parameter the gradient of the other set."""
        sets = cycle(self.gradients[::-1])

        def exchange() -> None:
            for p, g in zip(self.parameters, next(sets), strict=True):
                p.grad = g

        return exchange


def contestant(
    name: str, model: Model, make: Callable[[list[torch.nn.Parameter]], Any], reads_loss: bool = False
) -> Contestant:
    """`step()` of an optimizer through its public class; the change of gradients before it is not timed.

    `reads_loss`: the step is given a loss that is there already, on the parameters' device.
    """
    optimizer = make(model.parameters)
    prepare = model.next_gradients() if model.gradients[0] is not model.gradients[1] else lambda: None
    loss = torch.tensor(0.7, device=model.parameters[0].device)
    return Contestant(name, partial(optimizer.step, lambda: loss) if reads_loss else optimizer.step, prepare)


def rivals(case: Case, shapes: Sequence[tuple[int, ...]]) -> list[Contestant]:
    """The peers that are installed; where a spec has none, the PyTorch code made from the same equations."""
    if not case.peers:
        return [] if case.spec in SLOW_IN_PYTORCH else [ours(case, Model.of(shapes), "torch")]
    reads_loss = schema_of(case.spec).reads_loss
    return [theirs(peer, Model.of(shapes), reads_loss) for peer in case.peers if installed(peer)]


def ours(case: Case, model: Model, backend: str = "native") -> Contestant:
    """The generated optimizer."""
    name = class_name(case.spec)
    reads_loss = schema_of(case.spec).reads_loss
    return contestant(f"optc {backend}", model, lambda p: optc.create(name, p, backend=backend, **case.hypers), reads_loss)


def on_device(case: Case, model: Model, device: str) -> Contestant:
    """The generated optimizer as "optc". The backend is named, so that a fall-back to PyTorch cannot pass for it."""
    return replace(ours(case, model, "triton" if device == "cuda" else "native"), name="optc")


def in_64(elements: int) -> list[tuple[int, ...]]:
    """`elements` parameters in 64 vectors."""
    return [(max(1, elements // 64),)] * 64


def in_64_matrices(elements: int) -> list[tuple[int, ...]]:
    """About `elements` parameters in 64 square matrices, whose rows begin at multiples of 16 bytes."""
    side = max(16, round((elements / 64) ** 0.5) // 16 * 16)
    return [(side, side)] * 64


def theirs(peer: Peer, model: Model, reads_loss: bool = False) -> Contestant:
    """A peer's optimizer."""
    return contestant(peer.label, model, lambda p: getattr(import_module(peer.module), peer.name)(p, **peer.hypers), reads_loss)


def installed(peer: Peer) -> bool:
    """Whether its library is here."""
    return installed_module(peer.module.partition(".")[0])


def installed_module(name: str) -> bool:
    """Whether a library is here."""
    return find_spec(name) is not None
