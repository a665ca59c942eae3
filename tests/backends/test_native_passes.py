"""Native kernels of several passes follow the oracle, and do it without memory of their own."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.compiler.backends.native.emit import PRELUDE_NAMES
from optc.compiler.backends.native.matrices import MATRIX_NAMES
from optc.compiler.backends.native.passes import REDUCTION_NAMES
from optc.compiler.interpret import Oracle
from optc.dsl.kinds import Extent
from optc.runtime.backend import BackendUnavailable, Launcher, Residents
from optc.runtime.native import NATIVE, cut
from optc.runtime.native_build import prelude, reductions
from tests.backends.processes import exit_code, in_child
from tests.backends.reducing import (
    ALL_KINDS,
    BRANCHES,
    LAMB,
    NOVO,
    OBSERVED,
    SPECS,
    all_bits,
    class_of,
    float64,
    kernel_of,
    name_of,
    program_of,
    random,
    run,
    same_bits,
    spec,
)
from tests.backends.test_native_run import covered, peak_kib

pytestmark = pytest.mark.usefixtures("one_thread")

BALANCED = spec(
    "Balanced",
    """
        s = 0 per tensor as scale
""",
    """
        n = ‖g‖
        x = θ
        if new(s):
            x = x - mean(x)
            s ← rms(x)
        θ ← x - lr·s·g/(n + 1)
""",
)
"""Its second pass has something to do in the first step only."""
REBOUND = spec(
    "Rebound",
    """
        m = 0
""",
    """
        u = g
        a = sum(u²)
        c = mean(u²)
        u = 2·u + θ
        b = sum(u²)
        m ← ema(m, u, β₁)
        θ ← θ - lr·(a/(b + 1) + c)·m
""",
)
"""Two of its three measures reduce the same terms."""

SHAPES = [(0,), (), (1,), (7,), (64, 64), (3, 5, 7), (4097,), (20_011,), (0, 5)]


# --- what is computed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("text", "hypers"),
    [
        *(pytest.param(text, {}, id=name_of(text)) for text in (*SPECS, BALANCED, REBOUND)),
        pytest.param(BRANCHES, {"clip": True}, id="clipped"),
    ],
)
def test_the_oracle_is_followed(text: str, hypers: dict[str, bool], dtype: torch.dtype) -> None:
    follow_the_oracle(text, dtype, **hypers)


def test_a_pass_for_the_first_step_is_left_out_of_the_others() -> None:
    text = kernel_of(BALANCED).native
    assert re.findall(r"(if \(.*\) )?share\.pass\(\d, (?:select_)?pass_(\d)", text) == [
        ("", "0"),
        ("if (new_s) ", "1"),
        ("", "2"),
    ]
    assert "if (" not in kernel_of(LAMB).native.split("static void run_all")[1]


def test_equal_terms_are_written_once() -> None:
    text = kernel_of(REBOUND).native
    (first, _), (second, _) = kernel_of(REBOUND).passes[0].measures[0], kernel_of(REBOUND).passes[0].measures[2]
    assert re.findall(r"(\w+)_terms\[i - first\] =", text) == [first, second]
    assert text.count(f".add({first}_terms, end - first, turns.side);") == 2
    assert text.count(f".add({second}_terms, end - first, turns.side);") == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("text", [LAMB, NOVO, ALL_KINDS], ids=name_of)
def test_the_oracle_is_followed_with_parameters_of_16_bits(text: str, dtype: torch.dtype) -> None:
    follow_the_oracle(text, dtype)


def follow_the_oracle(text: str, dtype: torch.dtype, **hypers: bool) -> None:
    parameters = [torch.nn.Parameter(random(s, dtype, at)) for at, s in enumerate(SHAPES)]
    optimizer = class_of(text)(parameters, backend="native", **hypers)
    oracle = Oracle(program_of(text), hypers)
    kept = [oracle.new_parameter(float64(p)) for p in parameters]
    unit = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    last = torch.finfo(dtype).eps if dtype.itemsize == 2 else 8 * unit
    for t in range(1, 5):
        for at, p in enumerate(parameters):
            p.grad = random(tuple(p.shape), dtype, 100 * t + at)
            with np.errstate(all="ignore"):
                oracle.step(kept[at], float64(p.grad))
        optimizer.step()
        for p, want in zip(parameters, kept, strict=True):
            np.testing.assert_allclose(float64(p), want.theta, rtol=last, atol=last)
            for state in program_of(text).states:
                if state.name in want.states:
                    found = float64(optimizer.state[p][state.key])
                    assert found.shape == (() if state.extent is Extent.TENSOR else p.shape)
                    np.testing.assert_allclose(found, want.states[state.name], rtol=32 * unit, atol=32 * unit)
            want.theta = float64(p)  # rounded once per step


def test_numbers_of_empty_tensors_are_updated() -> None:
    _, (empty,) = run(ALL_KINDS, [torch.zeros(0, 3)], [[torch.zeros(0, 3)]])
    assert math.isnan(empty["last_norm"].item())  # the mean of nothing
    _, (empty,) = run(NOVO, [torch.zeros(0)], [[torch.zeros(0)]])
    assert empty["exp_avg_sq"].item() == 0.0


def test_a_measure_of_a_flags_other_side_is_of_no_elements() -> None:
    """Where the line does not run, its value is not used: nothing of an earlier launch or pass may show."""
    theta = [torch.full((5000,), 100.0)]
    steps = [[random((5000,), torch.float32, t)] for t in range(5)]
    once = all_bits(run(BRANCHES, theta, steps))
    again = all_bits(run(BRANCHES, theta, steps))
    assert all(same_bits(a, b) for a, b in zip(once, again, strict=True))
    assert all(torch.isfinite(b).all() for b in once)


# --- the launcher -------------------------------------------------------------------------------------------------------------


def novo(thetas: Sequence[Tensor]) -> tuple[Launcher, dict[str, list[Tensor]], dict[str, float]]:
    kernel = kernel_of(NOVO)
    tensors = {
        "theta": list(thetas),
        "m": [torch.zeros_like(t) for t in thetas],
        "v": [torch.zeros((), dtype=torch.float64) for _ in thetas],
    }
    values = {"beta1": 0.9, "beta2": 0.99, "one_minus_beta2": 0.01, "eps": 1e-6, "lr": 0.1}
    return NATIVE.prepare([kernel], [Residents(tensors, torch.float32, {})])[0], tensors, values


def test_some_members_are_updated_as_in_the_whole_and_the_others_are_left() -> None:
    thetas = [random((n,), torch.float32, n) for n in (5000, 3, 0, 9000)]
    gradients = [random((n,), torch.float32, n + 1) for n in (5000, 3, 0, 9000)]
    whole, all_of_them, values = novo([t.clone() for t in thetas])
    scalars = [values[name] for name in kernel_of(NOVO).scalars]
    whole.launch({"g": gradients}, scalars, (True,), 1.0)
    part, some, _ = novo([t.clone() for t in thetas])
    chosen = (1, 2, 3)
    part.only(chosen).launch({"g": [gradients[i] for i in chosen]}, scalars, (True,), 1.0)
    for name in ("theta", "m", "v"):
        assert all(same_bits(some[name][i], all_of_them[name][i]) for i in chosen)
    assert torch.equal(some["theta"][0], thetas[0]) and some["v"][0].item() == 0.0
    part.only((0,)).launch({"g": [gradients[0]]}, scalars, (True,), 1.0)
    part.only((2,)).launch({"g": [gradients[2]]}, scalars, (False,), 1.0)  # an empty tensor alone
    assert same_bits(some["theta"][0], all_of_them["theta"][0])


def test_numbers_that_are_not_float64_are_refused() -> None:
    tensors = {"theta": [torch.zeros(3)], "m": [torch.zeros(3)], "v": [torch.zeros(())]}
    with pytest.raises(BackendUnavailable, match="float64"):
        NATIVE.prepare([kernel_of(NOVO)], [Residents(tensors, torch.float32, {})])


def test_an_entry_that_keeps_numbers_only_takes_sizes_from_the_parameters() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (5, 9000, 0)]
    optimizer = class_of(OBSERVED)(parameters, backend="native", lr=1.0)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.observe([torch.full_like(p, 2.0) for p in parameters])
    assert [optimizer.state[p]["scale"].item() for p in parameters] == [11.0, 18_001.0, 1.0]
    kernel = class_of(OBSERVED).schema.procedures[1].kernels[0]
    numbers = [torch.zeros((), dtype=torch.float64) for _ in range(3)]
    launcher = NATIVE.prepare([kernel], [Residents({"n": numbers}, torch.float32, {}, [p.shape for p in parameters])])[0]
    launcher.launch({"x": [torch.ones_like(p) for p in parameters]}, (), (), 1.0)
    assert [n.item() for n in numbers] == [6.0, 9001.0, 1.0]
    launcher.only((1,)).launch({"x": [torch.zeros(9000)]}, (), (), 1.0)
    assert [n.item() for n in numbers] == [6.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="shapes"):
        NATIVE.prepare([kernel], [Residents({"n": numbers}, torch.float32, {})])


def test_a_forked_child_runs_stages_without_threads() -> None:
    launcher, tensors, values = novo([torch.ones(100_000), torch.ones(3)])
    scalars = [values[name] for name in kernel_of(NOVO).scalars]
    gradients = [torch.ones(100_000), torch.ones(3)]
    torch.set_num_threads(2)
    launcher.launch({"g": gradients}, scalars, (True,), 1.0)

    def work() -> None:
        launcher.launch({"g": gradients}, scalars, (False,), 1.0)
        assert tensors["v"][0].item() == pytest.approx(100_000.0, rel=1e-12)

    assert exit_code(in_child(work)) == 0


@pytest.mark.parametrize("sizes", [[0, 1, 4097, 0, 123_456], [], [0], [4096 * 11_008] * 22 + [1] * 500])
def test_every_tensor_has_a_chunk(sizes: list[int]) -> None:
    table = cut(sizes, per_tensor=True)
    assert covered(table, sizes)
    assert table.nbytes < 2**20
    ranges = [range(table.member_begin[m], table.member_begin[m + 1]) for m in range(len(sizes))]
    assert [c for of in ranges for c in of] == list(range(len(table)))
    assert all(len({table.tensor[c] for c in of}) == 1 for of in ranges)
    assert sorted(int(table.tensor[of[0]]) for of in ranges) == list(range(len(sizes)))
    assert [len(of) > 1 for of in ranges] == sorted(len(of) > 1 for of in ranges)  # tensors of one chunk come first


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory can be reset on Linux only")
def test_a_step_allocates_nothing_per_element() -> None:
    n = 4_000_000
    theta, g = torch.ones(n), torch.ones(n)
    launcher, _, values = novo([theta])
    scalars = [values[name] for name in kernel_of(NOVO).scalars]
    launcher.launch({"g": [g]}, scalars, (True,), 1.0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before = peak_kib()
    for _ in range(3):
        launcher.launch({"g": [g]}, scalars, (False,), 1.0)
    after = peak_kib()
    temporary = torch.ones(n)  # 16 MB: the gauge must show it
    assert peak_kib() - after > 8_000
    del temporary
    assert after - before < 1024


# --- the text -----------------------------------------------------------------------------------------------------------------


def test_the_text_reads_like_the_spec() -> None:
    text = kernel_of(LAMB).native
    for part in (
        "// Two passes over memory; the numbers at the line ends are lines of the spec.",
        "    Sum sum_theta_pow_two;\n    Sum sum_u_pow_two;\n",
        "            sum_theta_pow_two_terms[i - first] = square(theta);  // 18\n",
        "        sum_u_pow_two.add(sum_u_pow_two_terms, end - first);\n",
        "    const double lr = scalars[",
        "    const double w = sqrt(sum_theta_pow_two);  // 18\n"
        "    const double r = sqrt(sum_u_pow_two);  // 19\n"
        "    const double q = where(w > 0.0 && r > 0.0, w/r, 1.0);  // 20\n"
        "    const double lr_q = lr*q;  // 21\n",
        "    const math_t lr_q = math_t(statistics[2]);\n",
        "        theta = fma(-lr_q, u, theta);  // 21\n",
        "    share.pass(0, pass_0);\n    share.wait();\n    share.stage(1, per_tensor::stage_1);\n"
        "    share.wait();\n    share.pass(1, pass_1);\n",
    ):
        assert part in text, part
    assert text.count("#pragma omp simd") == 2
    assert "store(theta_at" not in text[: text.index("pass_1(")] and "store(m_at" not in text[text.index("pass_1(") :]


def test_instances_are_made_for_the_flags_that_a_pass_reads() -> None:
    text = kernel_of(NOVO).native
    assert "template" not in text and "const bool new_v = flags[0] != 0;" in text
    assert "template <bool mod_t_two_is_zero>\nstatic void pass_0(" in kernel_of(BRANCHES).native


def test_every_name_of_the_fixed_part_is_known_to_the_emitter() -> None:
    code = re.sub(r"//.*", "", reductions(matrices=True))
    kinds = r"using|class|struct|constexpr \w+|namespace|static void|OPTC_INLINE \w+|OPTC_CALLED \w+"
    found = set(re.findall(rf"^(?:template <.*?> )?(?:{kinds}) (\w+)", code, re.M))
    found |= set(re.findall(r"^OPTC_EXPORT void (\w+)", code, re.M))
    assert {"Sum", "Tensor", "Share", "TERMS", "run_all", "optc_run_passes", "per_tensor", "Tile", "Rows", "fold"} <= found
    assert found <= REDUCTION_NAMES | PRELUDE_NAMES | MATRIX_NAMES


def test_code_per_tensor_has_every_function_of_code_per_element() -> None:
    def functions(text: str) -> set[str]:
        return set(re.findall(r"^OPTC_INLINE (?:math_t|double|bool|float) (\w+)\(", text, re.M))

    per_tensor = reductions().split("namespace per_tensor {")[1].split("}  // namespace per_tensor")[0]
    assert functions(prelude()) - {"load", "float_of", "fma"} <= functions(per_tensor)


def test_names_of_a_spec_give_way_to_those_of_the_text() -> None:
    text = spec(
        "Named",
        """
        Sum = 0
        statistics = 0 per tensor
""",
        """
        tensor = sum(g²)
        pass_0 = max(|θ|)
        first = g/(1 + tensor)
        Sum ← Sum + first
        statistics ← statistics + pass_0 + sum(Sum)
        θ ← θ - lr·Sum/(1 + statistics²)
""",
    )
    thetas, gradients = [random((100,), torch.float64, 1)], [[random((100,), torch.float64, 2)]]
    (found,), _ = run(text, thetas, gradients)
    oracle = Oracle(program_of(text), {})
    kept = oracle.new_parameter(float64(thetas[0]))
    oracle.step(kept, float64(gradients[0][0]))
    np.testing.assert_allclose(float64(found), kept.theta, rtol=1e-13, atol=1e-13)
