"""The C++ text of a kernel: the spec's names, its lines, its flags, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optc.compiler.backends.native import emit
from optc.compiler.backends.native.emit import PRELUDE_NAMES, emit_kernel
from optc.compiler.backends.native.loop import MOST_FLAGS
from optc.compiler.plan import Kernel
from optc.dsl.program import TRUE, Branch, Expression, Read, Role, Stop, Symbol
from optc.runtime.native_build import prelude
from tests.backends import native_kernels as k

ADAMW_LOOP = """\
    for (int64_t i = 0; i < chunk.size; ++i) {
        math_t theta = load(theta_at[i]);
        const math_t g = load(g_at[i])*gradient_factor;
        math_t m = load(m_at[i]);
        math_t v = load(v_at[i]);
        math_t v_max = amsgrad ? load(v_max_at[i]) : math_t(0);

        m = fma(beta1, m, one_minus_beta1*g);  // 3
        v = fma(beta2, v, one_minus_beta2*square(g));  // 4
        math_t v_hat = v/c2;  // 5
        if (amsgrad) {  // 6
            v_max = max(v_max, v);  // 7
            v_hat = v_max/c2;  // 8
        }
        const math_t u = m/(sqrt(v_hat) + eps);  // 9
        theta = fma(decay, theta, -(lr_c1*u));  // 10

        store(theta_at[i], theta);
        store(m_at[i], m);
        store(v_at[i], v);
        if (amsgrad) store(v_max_at[i], v_max);
    }
"""


def kernel(*body: object, host_flags: tuple[str, ...] = (), scalars: tuple[str, ...] = ()) -> Kernel:
    streams = (k.stream(k.theta), k.stream(k.g, writes=False), k.stream(k.state("m"), exists=TRUE))
    return Kernel("test", streams, scalars, (), host_flags, body)  # type: ignore[arg-type]


def text(*body: object, host_flags: tuple[str, ...] = (), scalars: tuple[str, ...] = ()) -> str:
    return emit_kernel(kernel(*body, host_flags=host_flags, scalars=scalars), k.ADAMW_SOURCE)


def value_of(expression: Expression) -> str:
    """What an expression prints as."""
    found = re.search(r"^ +theta = (.*);$", text(k.store(k.theta, expression)), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_loop_of_adamw_reads_like_its_spec() -> None:
    assert ADAMW_LOOP in emit_kernel(k.adamw(), k.ADAMW_SOURCE)


def test_there_are_no_invented_names() -> None:
    for plan in (k.adamw(), k.sgd()):
        emitted = emit_kernel(plan, k.ADAMW_SOURCE)
        assert not re.search(r"\b(tmp|temp|x|t|_)\d+\b", emitted)


def test_static_flags_are_bits_of_the_variant_in_order() -> None:
    emitted = emit_kernel(k.sgd(), k.ADAMW_SOURCE)
    assert "constexpr bool with_momentum = OPTC_VARIANT >> 0 & 1;" in emitted
    assert "constexpr bool nesterov = OPTC_VARIANT >> 1 & 1;" in emitted


def test_host_flags_are_template_parameters_chosen_once_per_call() -> None:
    emitted = emit_kernel(k.sgd(), k.ADAMW_SOURCE)
    assert "template <bool new_b>\nstatic void update(" in emitted
    assert "        update<false>,\n        update<true>,\n    };\n    return instances[flags[0] << 0];" in emitted


def test_host_flags_beyond_the_limit_are_tested_in_the_loop() -> None:
    names = tuple(f"flag{i}" for i in range(MOST_FLAGS + 1))
    branches = [Branch(k.flag(n), (k.store(k.theta, k.op("add", k.theta, k.g)),), ()) for n in names]
    emitted = text(*branches, host_flags=names)
    assert f"const bool flag{MOST_FLAGS} = flags[{MOST_FLAGS}] != 0;" in emitted
    assert emitted.count("        update<") == 2**MOST_FLAGS


def test_scalars_are_rounded_once_and_in_order() -> None:
    emitted = emit_kernel(k.adamw(), k.ADAMW_SOURCE)
    assert "const math_t beta1 = math_t(scalars[0]);" in emitted
    assert "const math_t lr_c1 = math_t(scalars[7]);" in emitted


def test_a_state_is_stored_where_it_was_written_only() -> None:
    m = k.state("m")
    emitted = text(Branch(k.flag("sync"), (k.store(m, k.theta),), ()), k.store(k.theta, m), host_flags=("sync",))
    assert "if (sync) store(m_at[i], m);" in emitted
    both = text(Branch(k.flag("sync"), (k.store(m, k.theta),), (k.store(m, k.g),)), host_flags=("sync",))
    assert "        store(m_at[i], m);\n" in both
    other = text(Branch(k.flag("sync"), (), (k.store(m, k.g),)), host_flags=("sync",))
    assert "if (!sync) store(m_at[i], m);" in other


def test_a_stream_that_is_never_written_is_const() -> None:
    emitted = text(k.store(k.theta, k.g))
    assert "const state_t* __restrict m_at = chunk.row<state_t>(2);" in emitted
    assert "const math_t m = load(m_at[i]);" in emitted
    assert "store(m_at" not in emitted


def test_locals_are_declared_where_their_life_begins() -> None:
    u, w = k.local("u"), k.local("w")
    inside = text(Branch(k.flag("f"), (k.let(w, k.g), k.store(k.theta, w)), ()), host_flags=("f",))
    assert "            const math_t w = g;\n" in inside
    across = text(Branch(k.flag("f"), (k.let(u, k.g),), (k.let(u, k.theta),)), k.store(k.theta, u), host_flags=("f",))
    assert "        math_t u;\n        if (f) {\n            u = g;\n        } else {\n            u = theta;\n" in across


def test_a_chain_of_branches_is_flat() -> None:
    one, two = k.store(k.theta, k.g), k.store(k.theta, k.state("m"))
    emitted = text(Branch(k.flag("a"), (one,), (Branch(k.flag("b"), (two,), (one,)),)), host_flags=("a", "b"))
    assert "} else if (b) {" in emitted
    assert "} else {" in emitted


def test_booleans_per_element_are_bool() -> None:
    keep = Read(Symbol(Role.LOCAL, "keep"), k.BOOL)
    emitted = text(
        k.let(keep, k.op("and", k.op("gt", k.g, k.number(0)), k.op("not", k.op("lt", k.theta, k.g)))),
        k.store(k.theta, k.op("where", keep, k.g, k.number(0))),
    )
    assert "const bool keep = g > math_t(0) && !(theta < g);" in emitted
    assert "theta = where(keep, g, math_t(0));" in emitted


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (1, "math_t(1)"),
        (0.1, "math_t(0.1)"),
        (-0.0, "math_t(-0.0)"),
        (1e-30, "math_t(1e-30)"),
        (1e300, "math_t(1e+300)"),
        (-2.5, "math_t(-2.5)"),
        (float("inf"), "infinity"),
        (float("-inf"), "-infinity"),
        (float("nan"), "not_a_number"),
    ],
)
def test_numbers_have_the_arithmetic_type(value: float, printed: str) -> None:
    assert value_of(k.number(value)) == printed


@pytest.mark.parametrize(
    ("exponent", "printed"),
    [
        (2, "square(g)"), (3, "cube(g)"), (4, "fourth(g)"), (0.5, "half_power(g)"),
        (0.25, "pow(g, Exponent<kind_of(0.25)>(0.25))"), (-1, "pow(g, Exponent<kind_of(-1)>(-1))"),
        (1e-30, "pow(g, Exponent<kind_of(1e-30)>(1e-30))"), (float("inf"), "pow(g, infinity)"),
    ],
)  # fmt: skip
def test_powers_have_their_short_form_only_where_it_is_equal(exponent: float, printed: str) -> None:
    assert value_of(k.op("pow", k.g, k.number(exponent))) == printed


def test_a_loop_has_an_instance_for_each_kind_of_an_exponent_and_flag() -> None:
    power = k.op("pow", k.g, k.scalar("p"))
    flags = ("f0", "f1", "f2")
    branches = [Branch(k.flag(f), (k.store(k.state("m"), power),), ()) for f in flags]
    emitted = text(*branches, k.store(k.theta, k.op("mul", k.scalar("p"), power)), host_flags=flags, scalars=("lr", "p"))
    assert "template <Power kind, bool f0, bool f1>\nstatic void update(" in emitted
    assert "const Exponent<kind> p(scalars[1]);" in emitted
    assert "const bool f2 = flags[2] != 0;" in emitted
    instances = re.findall(r"update<Power::(\w+), (\w+), (\w+)>,", emitted)
    assert instances[:5] == [("any", a, b) for b in ("false", "true") for a in ("false", "true")] + [("one", "false", "false")]
    assert len(set(instances)) == 16
    assert "return instances[flags[0] << 0 | flags[1] << 1 | int(kind_of(scalars[1])) << 2];" in emitted


def test_all_exponents_of_a_loop_are_of_the_kind_that_they_have_in_common() -> None:
    powers = k.op("mul", k.op("pow", k.g, k.scalar("p")), k.op("pow", k.g, k.scalar("q")))
    emitted = text(k.store(k.theta, k.op("mul", k.scalar("lr"), powers)), scalars=("q", "lr", "p"))
    assert "template <Power kind>\n" in emitted
    assert "const Exponent<kind> q(scalars[0]);" in emitted
    assert "const math_t lr = math_t(scalars[1]);" in emitted
    assert "const Exponent<kind> p(scalars[2]);" in emitted
    assert "return instances[int(kind_of(scalars[2], scalars[0])) << 0];" in emitted
    assert "template" not in text(k.store(k.theta, k.op("pow", k.scalar("p"), k.g)), scalars=("p",))


def test_brackets_keep_the_order_of_evaluation() -> None:
    x = k.op("sub", k.theta, k.op("sub", k.g, k.theta))
    assert value_of(x) == "theta - (g - theta)"
    assert value_of(k.op("mul", x, k.op("neg", k.op("neg", k.g)))) == "(theta - (g - theta))*-(-g)"


def test_names_of_cpp_and_of_the_prelude_get_a_mark() -> None:
    locals_ = [k.let(k.local(name), k.g) for name in ("double", "max", "i", "chunk", "theta_at", "lr")]
    emitted = text(*locals_, scalars=("lr",))
    for name in ("double_", "max_", "i_", "chunk_", "theta_at_", "lr_"):
        assert f"const math_t {name} = g;" in emitted


def test_every_name_of_the_prelude_is_known_to_the_emitter() -> None:
    defined = set(re.findall(r"OPTC_INLINE \w+ (\w+)\(|(?:static|OPTC_EXPORT) (?:const )?\w+ (\w+)[\[(]", prelude()))
    defined |= {(n, "") for n in re.findall(r"^(?:using|struct|constexpr \w+) (\w+)", prelude(), re.MULTILINE)}
    names = {a or b for a, b in defined} - {"__attribute__"}
    assert {"load", "atan2", "optc_run", "bf16", "math_t", "Chunk", "infinity"} <= names
    assert names <= PRELUDE_NAMES


def test_products_are_added_by_the_operation_that_rounds_once() -> None:
    theta, g, m = k.theta, k.g, k.state("m")
    product, squared, negative = k.op("mul", g, m), k.op("pow", g, k.number(2)), k.op("neg", g)
    for value, printed in (
        (k.op("add", product, theta), "fma(g, m, theta)"),
        (k.op("add", theta, product), "fma(g, m, theta)"),
        (k.op("sub", product, theta), "fma(g, m, -theta)"),
        (k.op("sub", theta, product), "fma(-g, m, theta)"),
        (k.op("sub", theta, k.op("mul", negative, m)), "fma(-(-g), m, theta)"),
        (k.op("add", product, k.op("mul", theta, theta)), "fma(g, m, theta*theta)"),
        (k.op("sub", squared, theta), "fma(g, g, -theta)"),
        (k.op("sub", theta, squared), "fma(-g, g, theta)"),
        (k.op("add", theta, k.op("pow", k.op("add", g, m), k.number(2))), "theta + square(g + m)"),
        (k.op("mul", k.op("add", product, theta), m), "fma(g, m, theta)*m"),
    ):
        assert value_of(value) == printed


def test_a_statement_that_is_not_of_a_kernel_is_refused() -> None:
    with pytest.raises(TypeError, match="not a statement of a kernel"):
        text(Stop())


def test_the_template_does_no_arithmetic() -> None:
    template = Path(emit.__file__).with_name("kernel.cpp.j2").read_text(encoding="utf-8")
    for tag in re.findall(r"{[{%](.*?)[%}]}", template):
        loop = r'macro elements\(first, end\)|endmacro|elements\("[\w.]+", "[\w.]+"\)( \| indent\(4\))? \| trim\("\\n"\)'
        assert re.fullmatch(rf" (for line in \w+|endfor|if \w+|else|endif|{loop}|\w+) ", tag), tag
