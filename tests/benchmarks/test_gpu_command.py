"""`python -m benchmarks.gpu` and the GPU tests need PyTorch and Triton, and nothing of what the compiler needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.report import Row
from benchmarks.traffic import Precision, step_bytes
from benchmarks.workloads import CASES, Case, cases, class_name, step_traffic
from optc import generated
from optc.compiler.pipeline import check_source, plan_program
from optc.compiler.traffic import PRECISIONS, traffic
from optc.dsl.read import read
from optc.dsl.semantics import evaluate_static

ROOT = Path(__file__).resolve().parents[2]
COMPILER_ONLY = ("lark", "sympy", "jinja2", "click", "matplotlib", "platformdirs")
TESTS_ONLY = ("hypothesis", "pytorch_optimizer", "lion_pytorch", "sklearn")
SHIPPED = {case.spec: case for case in cases()}
VARIANTS = [
    *cases(),
    *(Case(module, {h.key: not h.defaults[0]})
      for name, module in generated.OPTIMIZERS.items()
      for h in getattr(generated, name).schema.hypers
      if h.kind == "flag"),
]  # fmt: skip


def without(packages: tuple[str, ...], code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process where these packages are not installed."""
    hide = f"import sys\nfor name in {packages!r}: sys.modules[name] = None\n"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", hide + code]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)


def test_a_hidden_package_is_not_found() -> None:
    done = without(("lark",), "import optc.dsl.parse")
    assert done.returncode != 0
    assert "lark" in done.stderr


def test_the_command_imports_and_plans_without_the_compiler() -> None:
    code = """
from benchmarks import gpu, gpu_profile, workloads
given = gpu.options().parse_args(["--scale", "0.5", "--part", "profile", "--spec", "lion"])
assert (given.scale, given.parts, given.only) == (0.5, ["profile"], ["lion"]), given
assert len(workloads.cases()) > 20
for case in workloads.cases():
    assert workloads.step_traffic(case).total >= 12, case
for case, precision in gpu_profile.PROFILED:
    assert workloads.step_traffic(case, precision).total >= 20, case
assert not [name for name in sys.modules if name.startswith("optc.compiler")]
"""
    done = without(COMPILER_ONLY + TESTS_ONLY, code)
    assert done.returncode == 0, done.stderr


def test_gpu_tests_are_collected_without_the_packages_of_other_tests() -> None:
    code = "import pytest\nsys.exit(pytest.main('-p no:cacheprovider --collect-only -q -m gpu tests/gpu'.split()))"
    done = without(COMPILER_ONLY + TESTS_ONLY, code, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_triton_gpu.py::test_a_skipped_step_changes_nothing" in done.stdout


@pytest.mark.parametrize("case", VARIANTS, ids=lambda case: case.label)
def test_bytes_are_those_of_the_compilers_plan(case: Case) -> None:
    (path,) = (p for p in (ROOT / "specs").rglob(f"{case.spec}.opt") if p.parent.name not in ("modifiers", "storages"))
    plan = plan_program(check_source(read(path)))[1]
    values = {n: d for h in plan.program.hypers for n, d in zip(h.names, h.defaults, strict=True)}
    values |= {h.names[0]: case.hypers[h.key] for h in plan.program.hypers if h.key in case.hypers}  # type: ignore[misc]
    variant = {f.name: evaluate_static(f.condition, values, ndim=2, numel=1 << 20) for f in plan.flags}
    (step,) = (p for p in plan.procedures if p.name == "step")
    for planned in PRECISIONS:
        expected = traffic(step, variant, planned)
        found = step_traffic(case, Precision(planned.theta, planned.gradient, planned.state))
        assert (found.bytes_read, found.bytes_written) == (expected.bytes_read, expected.bytes_written)


def test_tuples_of_hypers_are_taken_apart() -> None:
    schema = generated.AdamW.schema
    precision = Precision("float32", "float32", "float32")
    assert step_bytes(schema, {"betas": (0.5, 0.6), "amsgrad": True}, precision).total == 36


def test_every_case_has_a_generated_class() -> None:
    apart = {path.stem for path in (ROOT / "specs/low_memory").glob("*.opt")}  # measured by `cpu_storage`
    assert {class_name(name) for name in {case.spec for case in cases()} | apart} == set(generated.OPTIMIZERS)
    assert {case.spec for case in CASES} <= set(SHIPPED)


def test_a_part_that_fails_is_a_row_and_the_next_one_runs() -> None:
    def failing() -> Iterator[Row]:
        yield Row("first", "", "1", None)
        raise RuntimeError("out of\nluck | today")

    found = gpu._collect([("bad", failing()), ("good", iter([Row("last", "", "2", None)]))], float("inf"))
    assert [(row.what, row.measured, row.met) for row in found] == [
        ("first", "1", None),
        ("bad", "failed: RuntimeError: out of luck \\| today", False),
        ("last", "2", None),
    ]


def test_parts_that_no_time_is_left_for_are_named() -> None:
    (row,) = gpu._collect([("late", iter([Row("x", "", "1", None)]))], 0.0)
    assert row.what == "late and what follows"
    assert row.met is None


def test_results_of_finished_parts_are_kept_when_a_later_one_breaks_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Iterator[Row]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(gpu, "_against_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpu.main(["--device", "cpu", "--scale", "1e-5", "--part", "many", "--part", "others", "-o", str(tmp_path)])
    (path,) = tmp_path.glob("dry-*.json")
    (table,) = json.loads(path.read_text(encoding="utf-8"))["tables"]
    assert table["name"] == "AdamW, many small tensors"
    rows = {row["what"]: row["measured"] for row in table["rows"]}
    assert rows.keys() >= {"adamw", "adamw, launches in one step", "adamw vs torch fused", "adamw vs torch foreach"}, rows
    assert rows["adamw"].endswith(" ms")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "there is no CUDA device here" in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["0", "2", "x"])
def test_a_scale_out_of_range_is_refused(scale: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--scale", scale])
    assert "--scale" in capsys.readouterr().err
