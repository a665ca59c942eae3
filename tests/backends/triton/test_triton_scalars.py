"""The host program on the device: the same numbers as on the host, for tensors that are at different steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from optc.runtime.backend import Residents
from optc.runtime.hypers import Facts, holds
from optc.runtime.schema import Procedure, Schema
from optc.runtime.triton_launch import TRITON, CapturableLauncher, TritonLauncher, prepare_capturable
from tests.backends.triton.kernels import optimizer

pytestmark = pytest.mark.usefixtures("interpreted")

STEPS = (1.0, 2.0, 3.0, 6.0, 40.0, 1000.0)
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "dampening": 0.1},
    "ademamix": {"alpha_warmup": 10, "beta3_warmup": 20},
    "asgd": {"t0": 4.0},
}


def values_of(opt: Any) -> dict[str, Any]:
    """Hypers by inside name, as the runtime reads them."""
    group = opt.param_groups[0]
    found: dict[str, Any] = {}
    for h in opt.schema.hypers:
        found |= dict(zip(h.names, group[h.key] if h.is_tuple else (group[h.key],), strict=True))
    return found


class Bench:
    """One procedure of an optimizer, bound to tensors at different steps, on both sides."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float64, procedure: str = "step") -> None:
        torch.manual_seed(0)
        opt = optimizer(name)([torch.nn.Parameter(torch.zeros(1))], **OPTIONS.get(name, {}))
        self.schema: Schema = opt.schema
        self.procedure: Procedure = self.schema.procedure(procedure)
        self.values = values_of(opt)
        self.shapes = [(3,), (2, 5), (), (600,), (1, 1, 4), (7,)]
        self.variant = {n: holds(c, self.values, Facts(2, 10)) for n, c in self.schema.flags}
        self.dtype = dtype
        self.tensors = {"theta": [torch.randn(s, dtype=dtype) for s in self.shapes]}
        for state in self.schema.states:
            if not state.host and (state.exists is None or holds(state.exists, self.values, Facts(2, 10))):
                self.tensors[state.name] = [torch.rand(s, dtype=dtype) for s in self.shapes]
        self.varying = {s.name: [torch.randn(x, dtype=dtype) for x in self.shapes]
                        for k in self.procedure.kernels for s in k.streams if s.role in ("gradient", "input")}  # fmt: skip
        ahead = 1.0 if procedure == "step" else 0.0
        self.counters = torch.tensor([t - ahead for t in STEPS])
        self.carried = 0.5 + torch.rand(len(self.procedure.carried), len(STEPS), dtype=torch.float64)

    def numbers(self) -> tuple[list[str], Tensor]:
        texts = {n for h in self.schema.hypers if h.kind == "choice" for n in h.names}
        names = [n for n in self.values if n not in texts]
        return names, torch.tensor(
            [math.inf if (v := self.values[n]) is None else float(v) for n in names], dtype=torch.float64
        )

    def residents(self, tensors: dict[str, list[Tensor]]) -> Residents:
        used = {s.name for k in self.procedure.kernels for s in k.streams}
        return Residents({k: v for k, v in tensors.items() if k in used}, self.dtype, self.variant)

    def launcher(self) -> CapturableLauncher:
        return prepare_capturable(self.procedure, self.numbers()[0], self.residents(self.tensors), self.counters, self.carried)

    def on_host(self, index: int, new: tuple[str, ...]) -> tuple[tuple[float, ...], tuple[bool, ...], tuple[float, ...]]:
        shape = self.shapes[index]
        names = {**self.values, "t": STEPS[index], "numel": float(math.prod(shape)), "ndim": float(len(shape))}
        names |= {f"new_{s.name}": s.name in new for s in self.schema.states}
        names |= dict(zip(self.procedure.carried, self.carried[:, index].tolist(), strict=True))
        return self.procedure.host(*[names[a] for a in self.procedure.arguments])


CASES = [
    *(
        (name, "step")
        for name in ("adamw", "sgd", "nadam", "radam", "ademamix", "simplified_ademamix", "asgd", "adopt", "rprop")
    ),
    ("sophia", "update_hessian"),
]


@pytest.mark.parametrize("new", [(), ("b",)])
@pytest.mark.parametrize(("name", "procedure"), CASES)
def test_capturable_does_what_the_host_path_does_and_counts(name: str, procedure: str, new: tuple[str, ...]) -> None:
    bench = Bench(name, procedure=procedure)
    kernel = bench.procedure.kernels[0]
    outcomes = [bench.on_host(i, new) for i in range(len(STEPS))]
    twins = {n: [x.clone() for x in column] for n, column in bench.tensors.items()}
    for i, (scalars, flags, _) in enumerate(outcomes):
        one = bench.residents({n: [column[i]] for n, column in twins.items()})
        known = dict(zip(bench.procedure.scalars, scalars, strict=True))
        raised = dict(zip(bench.procedure.flags, flags, strict=True))
        TRITON.prepare([kernel], [one])[0].launch(
            {n: [column[i]] for n, column in bench.varying.items()},
            [known[n] for n in kernel.scalars], [raised[n] for n in kernel.host_flags], -1.0,
        )  # fmt: skip
    bench.launcher().launch(bench.varying, bench.numbers()[1], -1.0, None, new)
    for n, column in bench.tensors.items():
        for mine, twin in zip(column, twins[n], strict=True):
            torch.testing.assert_close(mine, twin, rtol=1e-12, atol=1e-13, equal_nan=True)
    assert bench.counters.tolist() == list(STEPS)
    carried = torch.tensor([c for _, _, c in outcomes], dtype=torch.float64).T.reshape(bench.carried.shape)
    torch.testing.assert_close(bench.carried, carried, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("found", [0.0, 1.0])
def test_a_skipped_step_changes_and_counts_nothing(found: float, dtype: torch.dtype) -> None:
    bench = Bench("nadam", dtype)
    before = bench.counters.clone(), bench.carried.clone(), {n: [x.clone() for x in c] for n, c in bench.tensors.items()}
    factor = torch.tensor(0.5)
    bench.launcher().launch(bench.varying, bench.numbers()[1], factor, torch.tensor([found]))
    moved = any(not torch.equal(x, y) for n, c in bench.tensors.items() for x, y in zip(c, before[2][n], strict=True))
    assert moved == (found == 0.0)
    assert torch.equal(bench.counters, before[0] + (found == 0.0))
    assert torch.equal(bench.carried, before[1]) == (found == 1.0)


def test_scalars_are_rounded_once_from_float64() -> None:
    """1 - 0.999 in float32 would be off by 1.3e-5."""
    bench = Bench("adamw", torch.float32)
    launcher = bench.launcher()
    launcher.launch(bench.varying, bench.numbers()[1], 1.0, None)
    kernel = bench.procedure.kernels[0]
    at = kernel.scalars.index("one_minus_beta2")
    row = launcher.memory.view(len(STEPS), -1)[:, at]
    assert row.tolist() == [torch.tensor(1.0 - 0.999).item()] * len(STEPS)


def test_launches_do_not_grow_with_tensors() -> None:
    launches: list[str] = []
    bench = Bench("adamw", torch.float32)
    launcher = bench.launcher()
    hooked = (launcher.function.jit, *(one.function.jit for one in launcher.launchers if isinstance(one, TritonLauncher)))

    def count(*_: Any, **__: Any) -> None:
        launches.append("")

    for jit in hooked:
        jit.add_pre_run_hook(count)
    try:
        launcher.launch(bench.varying, bench.numbers()[1], 1.0, None)
    finally:
        for jit in hooked:
            jit.pre_run_hooks.remove(count)
    assert len(launches) == 2
