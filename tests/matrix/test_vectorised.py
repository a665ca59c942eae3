"""Every shipped native kernel compiles to vector code: the compiler itself reports it, loop by loop."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from optc.runtime.backend import BackendUnavailable
from optc.runtime.native_build import LADDER, OPTIONS, find_compiler, kernel_source
from optc.runtime.native_matrices import knows_matrices
from optc.runtime.schema import Kernel, Schema
from tests.references import SPECS, rest

TYPES = {
    "float32": ("fp32", "fp32", "float"),
    "bfloat16": ("bf16", "fp32", "float"),
    "float16": ("fp16", "fp32", "float"),
    "float64": ("fp64", "fp64", "double"),
}


def shipped(spec: str) -> Schema:
    """The schema of a generated module."""
    found: Schema = import_module(f"optc.generated.{spec.rpartition('/')[2]}").SCHEMA
    return found


SCALAR = {"parameter_free/alig step_2": "GCC leaves the loop without momentum scalar: open, it is bound by memory"}


def marks(spec: str, kernel: Kernel) -> tuple[pytest.MarkDecorator, ...]:
    """Those of the spec, and what is known not to be vectorised."""
    reason = SCALAR.get(f"{spec} {kernel.name}")
    return rest(spec) if reason is None else (*rest(spec), pytest.mark.xfail(reason=reason, strict=True))


IDLE = {"adam/adagc step": "most_of_all_is_not_none", "momentum/lomo step": "clip_grad_norm_is_not_none"}
"""Kernels that measure what something is clipped by, and the flag without which they do nothing."""


def busy(spec: str, kernel: Kernel) -> list[int]:
    """The variants that have something to do."""
    flag = IDLE.get(f"{spec} {kernel.name}")
    bit = 0 if flag is None else 1 << kernel.static_flags.index(flag)
    return [variant for variant in range(1 << len(kernel.static_flags)) if variant & bit == bit]


KERNELS = [
    pytest.param(s, k, id=f"{s} {k.name}", marks=marks(s, k)) for s in SPECS for p in shipped(s).procedures for k in p.kernels
]


@cache
def gcc() -> list[str]:
    """The compiler in use, if it is a GCC on x86-64, whose reports this file reads."""
    try:
        compiler = find_compiler()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    command = [*compiler.command, "-dM", "-E", "-x", "c++", "/dev/null"]
    macros = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "__clang__" in macros or "__x86_64__" not in macros:
        pytest.skip("reads GCC's report on x86-64")
    return [*compiler.command]


def vectorised(kernel: Kernel, dtype: str, variant: int, folder: Path) -> bool:
    theta, state, math = TYPES[dtype]
    macros = {
        "OPTC_PARAM_T": theta, "OPTC_GRAD_T": theta, "OPTC_STATE_T": state, "OPTC_INPUT_T": state, "OPTC_MATH_T": math,
        "OPTC_VARIANT": str(variant), "OPTC_KEY": '"vectorised"',
    }  # fmt: skip
    source = folder / "kernel.cpp"
    source.write_text(kernel_source(kernel.native, bool(kernel.passes), knows_matrices(kernel)), encoding="utf-8")
    options = [o for o in (*OPTIONS, *LADDER[0]) if not o.startswith(("-l", "-Wl"))]
    options += [f"-D{k}={v}" for k, v in macros.items()]
    command = [*gcc(), *options, "-fopt-info-vec-optimized", "-shared", "-fPIC", "-o", "kernel.so", "kernel.cpp"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return re.search(r"loop vectorized using \d+ byte vectors", done.stderr) is not None


@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_float32(spec: str, kernel: Kernel, tmp_path: Path) -> None:
    variants = busy(spec, kernel)
    assert [v for v in sorted({variants[0], variants[-1]}) if not vectorised(kernel, "float32", v, tmp_path)] == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("spec", "kernel"), KERNELS)
def test_every_variant_and_dtype(spec: str, kernel: Kernel, dtype: str, tmp_path: Path) -> None:
    assert [v for v in busy(spec, kernel) if not vectorised(kernel, dtype, v, tmp_path)] == []
