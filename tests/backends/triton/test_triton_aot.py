"""What Triton's compiler makes of the kernels, for every target, without a GPU: registers, spills, widths, bytes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from optc.compiler.aot import TARGETS, AotReport, Request, reports
from optc.compiler.backends.triton.emit import emit_kernel
from optc.compiler.compose.expand import with_modifiers
from optc.compiler.compose.library import named, shipped, shipped_schedules
from optc.compiler.pipeline import compile_expanded
from optc.compiler.plan import Kernel
from optc.compiler.traffic import PRECISIONS, Precision, streams_in
from optc.dsl.program import Expression, Role
from tests.backends import native_kernels as plans
from tests.backends.triton.kernels import HEADER, compilation

pytest.importorskip("triton")
FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = PRECISIONS
MOST_REGISTERS = {"float32": 64, "float64": 80}
"""By arithmetic: a float64 value takes two registers, but half as many elements are in one 16-byte access."""


def request(kernel: Kernel, precision: Precision, target: str, flags: dict[str, bool], in_memory: bool = False) -> Request:
    of_role = {Role.THETA: precision.theta, Role.STATE: precision.state}
    dtypes = {name: of_role.get(role, precision.gradient) for name, role, _, _ in streams_in(kernel.sweeps[0], flags)}
    double = precision.theta == "float64"
    real = "float64" if double else "float32"
    return Request(f"{kernel.name}_triton", target, dtypes, flags, in_memory or double, in_memory, real)


def planned(kernel: Kernel, precision: Precision, flags: dict[str, bool]) -> tuple[int, int]:
    """Bytes read and written per element; float64 kernels learn their host flags from memory, and take either path."""
    if precision.theta == "float64":
        flags = {name: value for name, value in flags.items() if name not in kernel.host_flags}
    moved = list(streams_in(kernel.sweeps[0], flags))
    return sum(precision.size(r) for _, r, read, _ in moved if read), sum(precision.size(r) for _, r, _, w in moved if w)


def check(report: AotReport, kernel: Kernel, precision: Precision, flags: dict[str, bool]) -> None:
    check_resources(report, "float64" if precision.theta == "float64" else "float32")
    assert (report.bytes_loaded, report.bytes_stored) == planned(kernel, precision, flags), report
    sizes = {precision.size(role) for _, role, _, _ in streams_in(kernel.sweeps[0], flags)}
    assert min(report.load_widths + report.store_widths) >= min(16, 4 * min(sizes)), report
    assert max(report.load_widths + report.store_widths) == 16, report
    if not report.target.startswith("gfx"):  # masks are registers there: its tail cannot be told from other loops
        assert set(report.tail_widths) == sizes, "the masked loop must not believe in alignment"


def check_resources(report: AotReport, real: str = "float32") -> None:
    assert report.registers <= MOST_REGISTERS[real], report
    assert (report.stack, report.local, report.spills, report.shared, report.atomics) == (0, 0, 0, 0, 0), report


def hand_made(tmp_path: Path, kernels: Iterable[Kernel]) -> str:
    path = tmp_path / "hand_made_kernels.py"
    path.write_text(HEADER + "\n\n".join(emit_kernel(k, plans.ADAMW_SOURCE) for k in kernels))
    return str(path)


AMSGRAD, PLAIN = {"amsgrad": True}, {"amsgrad": False}
FIRST, LATER = ({"with_momentum": True, "nesterov": True, "new_b": new} for new in (True, False))
BARE = {"with_momentum": False, "nesterov": False, "new_b": False}
CASES = [
    (plans.adamw(), FLOAT32, AMSGRAD, TARGETS), (plans.adamw(), BFLOAT16, PLAIN, ("sm_90", "gfx942")),
    (plans.adamw(), FLOAT64, AMSGRAD, ("sm_90",)), (plans.sgd(), FLOAT32, FIRST, ("sm_90",)),
    (plans.sgd(), BFLOAT16, BARE, ("sm_80",)),
]  # fmt: skip
MORE = [(k, p, f, TARGETS) for k, fs in ((plans.adamw(), (AMSGRAD, PLAIN)), (plans.sgd(), (FIRST, LATER, BARE)))
        for p in PRECISIONS for f in fs]  # fmt: skip


@pytest.mark.parametrize("table", [CASES, pytest.param(MORE, marks=pytest.mark.slow)], ids=["some", "all"])
def test_kernels_keep_to_their_plan_on_every_target(
    tmp_path: Path, table: list[tuple[Kernel, Precision, dict[str, bool], tuple[str, ...]]]
) -> None:
    cases = [(k, p, f, t) for k, p, f, targets in table for t in targets]
    module = hand_made(tmp_path, (plans.adamw(), plans.sgd()))
    made = reports(module, [request(k, p, t, f) for k, p, f, t in cases])
    for (kernel, precision, flags, _), report in zip(cases, made, strict=True):
        check(report, kernel, precision, flags)


def test_flags_from_the_device_read_every_stream_once(tmp_path: Path) -> None:
    """Under capture `new_b` is not known when the kernel is compiled: b is read and written on both paths."""
    static = {"with_momentum": True, "nesterov": False}
    module = hand_made(tmp_path, [plans.sgd()])
    for report in reports(module, [request(plans.sgd(), FLOAT32, t, static, in_memory=True) for t in ("sm_90", "gfx942")]):
        check_resources(report)
        assert (report.bytes_loaded, report.bytes_stored) == (12, 8)
        assert set(report.load_widths + report.store_widths) == {16}


FUNCTIONS = ("neg", "sqrt", "exp", "log", "tanh", "abs", "sign", "floor")
PAIRS = ("mod", "div", "pow", "min", "max", "atan2")


def test_every_operation_compiles_for_nvidia_and_amd(tmp_path: Path) -> None:
    kernel = plans.function("add", *_sums([*(plans.op(f, plans.g) for f in FUNCTIONS),
                                           *(plans.op(f, plans.g, plans.state("m")) for f in PAIRS)]))  # fmt: skip
    cases = [(p, t) for p in (FLOAT32, FLOAT64) for t in ("sm_90", "gfx942")]
    made = reports(hand_made(tmp_path, [kernel]), [request(kernel, p, t, {}) for p, t in cases])
    for (precision, _), report in zip(cases, made, strict=True):
        assert (report.atomics, report.shared) == (0, 0), report
        assert (report.bytes_loaded, report.bytes_stored) == planned(kernel, precision, {}), report


def test_sine_and_cosine_compile_for_nvidia_and_amd(tmp_path: Path) -> None:
    """libdevice reduces huge angles with a table of its own, on the stack and in global memory."""
    kernel = plans.function("add", plans.op("sin", plans.g), plans.op("cos", plans.state("m")))
    for report in reports(hand_made(tmp_path, [kernel]), [request(kernel, FLOAT32, t, {}) for t in ("sm_90", "gfx942")]):
        assert (report.load_widths.count(16), report.store_widths, report.shared) == (2, (16,), 0), report


def _sums(terms: list[Expression]) -> tuple[Expression, Expression]:
    *rest, last = terms
    total = rest[0]
    for term in rest[1:]:
        total = plans.op("add", total, term)
    return total, last


@pytest.mark.parametrize(
    ("name", "targets"),
    [("nadam", ("sm_90", "gfx942")), *(pytest.param(n, TARGETS, marks=pytest.mark.slow) for n in ("nadam", "radam"))],
)
def test_host_programs_compile_for_every_target(tmp_path: Path, name: str, targets: tuple[str, ...]) -> None:
    path = tmp_path / f"{name}_module.py"
    path.write_text(compilation(name).module)
    for report in reports(str(path), [Request("step_scalars_triton", t, found_inf=True) for t in targets]):
        check_resources(report)


@pytest.mark.parametrize(
    "name", ["one_cycle", "restarts", *(pytest.param(n, marks=pytest.mark.slow) for n in shipped_schedules())]
)
def test_schedules_compile_into_host_programs_for_every_target(tmp_path: Path, name: str) -> None:
    path = tmp_path / "scheduled_module.py"
    path.write_text(compile_expanded(with_modifiers(named(shipped()["sgd"]), [name])).module)
    for report in reports(str(path), [Request("step_scalars_triton", t, found_inf=True) for t in ("sm_90", "gfx942")]):
        check_resources(report)


SHOW = """
import sys
from optc.compiler.backends.triton.emit import emit_kernel
from optc.compiler.aot import Request, _load, intermediate
function = _load(sys.argv[1]).adamw_step_triton
request = Request("adamw_step_triton", "sm_90", dict.fromkeys(("theta", "g", "m", "v"), "float32"))
print(intermediate(function, request, "ttir"), intermediate(function, request, "ptx"), sep="=====")
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """TTIR and PTX of AdamW for sm_90."""
    module = hand_made(tmp_path_factory.mktemp("stages"), [plans.adamw()])
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run([sys.executable, "-c", SHOW, module], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.split("=====")


def test_chunks_begin_at_64_bit_offsets_and_elements_at_32_bit_ones(stages: list[str]) -> None:
    ttir = stages[0]
    of_scalars = re.findall(r"tt\.addptr \S+, \S+ (?:{.*} )?: !tt\.ptr<f32>, (i\d+)", ttir)
    of_blocks = re.findall(r"tt\.addptr \S+, \S+ : tensor<\d+x!tt\.ptr<f32>>, tensor<\d+x(i\d+)>", ttir)
    assert of_scalars
    assert set(of_scalars) == {"i64"}
    assert of_blocks
    assert set(of_blocks) == {"i32"}


def test_only_the_unmasked_loop_claims_alignment(stages: list[str]) -> None:
    hints = [line.split("=")[0].strip() for line in stages[0].splitlines() if "tt.divisibility" in line and "tt.addptr" in line]
    assert hints == ["%theta_by", "%g_by", "%m_by", "%v_by"]


def test_division_and_square_root_are_correctly_rounded(stages: list[str]) -> None:
    ptx = stages[1]
    assert "div.rn.f32" in ptx
    assert "sqrt.rn.f32" in ptx
    assert not re.search(r"div\.full|\.approx", ptx)
