"""The text of the kernels, and the decorator they stand under."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from optc.compiler.backends.triton.emit import emit_kernel
from optc.compiler.plan import Kernel, Plan
from optc.dsl.program import Branch
from optc.runtime.triton_kernel import LazyKernel, triton_kernel
from tests.backends import native_kernels as plans
from tests.backends.triton.kernels import HEADER, compilation, module_of


def tile(kernel: Kernel) -> list[str]:
    """The lines between the loads and the stores."""
    lines = emit_kernel(kernel, plans.ADAMW_SOURCE).split("@triton_kernel")[1].splitlines()
    body = lines[next(i for i, line in enumerate(lines) if line.startswith(") ->")) + 2 :]
    return [line.strip() for line in body if line.strip()]


def test_a_tile_has_the_lines_of_the_spec_with_their_numbers() -> None:
    assert tile(plans.adamw()) == [
        "theta = tl.load(theta_at, mask).to(real)",
        "g = tl.load(g_at, mask).to(real) * factor",
        "m = tl.load(m_at, mask).to(real)",
        "v = tl.load(v_at, mask).to(real)",
        "if amsgrad:",
        "v_max = tl.load(v_max_at, mask).to(real)",
        "m = beta1*m + one_minus_beta1*g  # 3",
        "v = beta2*v + one_minus_beta2*gpu.square(g)  # 4",
        "v_hat = gpu.div(v, c2)  # 5",
        "if amsgrad:  # 6",
        "v_max = gpu.maximum(v_max, v)  # 7",
        "v_hat = gpu.div(v_max, c2)  # 8",
        "u = gpu.div(m, gpu.sqrt(v_hat) + eps)  # 9",
        "theta = decay*theta - lr_c1*u  # 10",
        "tl.store(theta_at, theta, mask)",
        "tl.store(m_at, m, mask)",
        "tl.store(v_at, v, mask)",
        "if amsgrad:",
        "tl.store(v_max_at, v_max, mask)",
    ]


def test_names_of_the_spec_do_not_meet_the_kernel_s_own() -> None:
    value = plans.local("mask")
    body = (plans.let(value, plans.op("add", plans.g, plans.state("m"))), plans.store(plans.theta, value))
    lines = tile(Kernel("k", (*plans.function("sqrt", plans.g).streams,), (), (), (), body))
    assert "mask_ = g + m" in lines
    assert "theta = mask_" in lines


def test_what_one_branch_binds_is_defined_before_it() -> None:
    """Triton drops a name that only one path of a run-time `if` has bound."""
    late, flag = plans.local("late"), plans.flag("first")
    body = (
        Branch(flag, (plans.let(late, plans.number(2.0)),), ()),
        Branch(flag, (plans.store(plans.theta, plans.op("mul", late, plans.g)),), ()),
    )
    lines = tile(Kernel("k", plans.function("sqrt", plans.g).streams, (), (), ("first",), body))
    assert lines.index("late = tl.full((), 0.0, real)") < lines.index("if first:")
    assert lines[-2:] == ["if first:", "tl.store(theta_at, theta, mask)"]


def test_a_flag_is_negated_as_a_flag() -> None:
    """`~True` is -2, which is true."""
    value = plans.op("where", plans.op("not", plans.flag("first")), plans.g, plans.theta)
    lines = tile(Kernel("k", plans.function("sqrt", plans.g).streams, (), (), ("first",), (plans.store(plans.theta, value),)))
    assert "theta = tl.where((not first), g, theta)" in lines


def test_every_kernel_and_host_program_of_a_spec_is_emitted_once() -> None:
    compiled = compilation("sophia")
    plan: Plan = compiled.plan
    names = [f"{p.name}_{end}" for p in plan.procedures for end in ("tile", "triton", "scalars_triton")]
    for name in names:
        assert compiled.module.count(f"\ndef {name}(\n") == 1


def test_kernels_are_there_without_importing_triton() -> None:
    code = "import sys, optc.runtime.gpu; print('triton' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "False"


def test_a_kernel_keeps_its_module_as_it_was() -> None:
    pytest.importorskip("triton")
    module = module_of(HEADER + emit_kernel(plans.adamw(), plans.ADAMW_SOURCE))
    before = dict(vars(module))
    assert module.adamw_step_triton.jit is module.adamw_step_triton.jit
    assert vars(module) == before


def test_no_value_is_specialised_on() -> None:
    pytest.importorskip("triton")
    kernel = module_of(HEADER + emit_kernel(plans.sgd(), plans.ADAMW_SOURCE)).sgd_step_triton
    assert {"chunk", "scalar_rows", "lr"} <= set(kernel.parameters) - set(kernel.constants)
    assert {"nesterov", "new_b", "BLOCK", "theta_type"} <= set(kernel.constants)


def test_a_kernel_cannot_be_called_or_made_of_a_class() -> None:
    @triton_kernel
    def nothing() -> None:
        """Does nothing."""

    assert isinstance(nothing, LazyKernel)
    with pytest.raises(TypeError, match="launch it through"):
        nothing()
    with pytest.raises(TypeError, match="plain functions"):
        triton_kernel(int)
