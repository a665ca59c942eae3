"""Wrong specs: each mistake is found at its very place, with its code and a remedy, and nothing else is said.

A case is the text and, for each expected diagnostic, `line:column code` and a part of the hint.
"""

from __future__ import annotations

import pytest

from tests.dsl.wrong import END, diagnose, found, step

CASES: dict[str, tuple[str, list[tuple[str, str]]]] = {
    # --- names
    "unknown name": (step("u = g + mm", *END[:1], "θ <- θ - lr*u"), [("7:17 unknown-name", "did you mean `m`?")]),
    "a misspelt name is not also unused": (
        step("moment = g", *END[:1], "θ <- θ - lr*(momnt + m)"),
        [("9:22 unknown-name", "did you mean `moment`?")],
    ),
    "an unknown name is said once": (step("u = q + q*q", *END[:1], "θ <- θ - lr*(u + m + q)"), [("7:13 unknown-name", "")]),
    "what follows from a mistake is silent": (
        step("a = zzz", "b = a + 1", "c = where(b > a, b, a)", *END[:1], "θ <- θ - lr*(c + m)"),
        [("7:13 unknown-name", "")],
    ),
    "unknown function": (step("m <- emma(m, g, 0.9)", END[1]), [("7:14 unknown-function", "did you mean `ema`?")]),
    "unknown state": (step("mm <- ema(m, g, 0.9)", END[1]), [("7:9 unknown-state", "did you mean `m`?")]),
    "use before definition": (step("m <- ema(m, u, 0.9)", "u = g", END[1]), [("7:21 use-before-definition", "up")]),
    "a local of step is unknown in an entry": (
        step("u = g", "θ <- θ - lr*u*m", more=("entry f(h per elem):", "    m <- h*u")),
        [("10:16 unknown-name", "")],
    ),
    "reserved names of later versions": (step("u = rows*g", *END[:1], "θ <- θ - lr*(u + m)"), [("7:13 unsupported", "")]),
    "a function without call": (
        step("u = f + g", "θ <- θ - lr*u*m", more=("define f(x) = x + 1",)),
        [("7:13 expected-number", "f(…)")],
    ),
    # --- unused
    "unused state": (step("θ <- θ - lr*g"), [("5:9 unused-state", "take it out")]),
    "written but never read": (step("m <- g", "θ <- θ - lr*g"), [("5:9 unused-state", "take it out")]),
    "unused hyper": (step("θ <- θ - g", state=()), [("3:9 unused-hyper", "take it out")]),
    "require is not a use": (
        step("θ <- θ - g", state=(), hyper='lr = 0.1; require lr > 0, "positive"'),
        [("3:9 unused-hyper", "take it out")],
    ),
    "unused element": (
        step("θ <- θ - lr*b1*g", state=(), hyper="lr = 0.1; betas = (b1 = 0.9, b2 = 0.99)"),
        [("3:38 unused-hyper", "take it out")],
    ),
    "unused local": (step("u = g", *END), [("7:9 unused-local", "take the line out")]),
    "unused define": (step(*END, more=("define f(x) = x",)), [("9:12 unused-define", "call it")]),
    "unused input": (step(*END, more=("entry f(a per elem):", "    m <- 2*m")), [("9:13 unused-input", "take it out")]),
    "unused parameter": (step("m <- f(m, g)", END[1], more=("define f(x, y) = x",)), [("9:12 unused-local", "take it out")]),
    # --- = and <-
    "= on a state": (step("m = ema(m, g, 0.9)", END[1]), [("7:9 assign-to-state", "m <- ")]),
    "= on a hyper": (step("lr = 2*lr", *END), [("7:9 assign-to-hyper", "another name")]),
    "= on θ": (step(END[0], "θ = θ - lr*m"), [("8:9 assign-to-theta", "theta <- "), ("8:9 missing-theta-write", "theta <- ")]),
    "= on t": (step("t = 1", *END), [("7:9 reserved-name", "another name")]),
    "= on an input": (
        step(*END, more=("entry f(h per elem):", "    h = 2*h", "    m <- h")),
        [("10:9 assign-to-input", "another name")],
    ),
    "<- on a local": (step("u = g", "u <- 2*u", *END[:1], "θ <- θ - lr*m*u"), [("8:9 write-to-non-state", "u = ")]),
    "<- on a hyper": (step("lr <- 2*lr", *END), [("7:9 write-to-non-state", "never changes")]),
    "<- on g": (step("g <- 2*g", *END), [("7:9 write-to-non-state", "g = ")]),
    # --- declarations
    "two states": (step(*END, state=("m = 0; m = 1",)), [("5:16 duplicate-name", "another")]),
    "one identity in two spellings": (
        step("θ <- θ - beta*β*g", state=(), hyper="beta = 0.1; β = 0.2 as other"),
        [("3:21 duplicate-name", "Greek and ASCII")],
    ),
    "a state and a hyper": (step(*END, state=("m = 0; lr = 0",)), [("5:16 duplicate-name", "")]),
    "two keys": (
        step(END[0], "θ <- θ - lr*m*v", state=("m = 0 as k; v = 0 as k",)),
        [("5:30 duplicate-key", "`as`")],
    ),
    "a hyper called params": (
        step("θ <- θ - k*g", state=(), hyper="k = 1 as params"),
        [("3:18 reserved-name", "another name")],
    ),
    "a hyper called like an argument of the constructor": (
        step("θ <- θ - k*g*amp", state=(), hyper="k = 1 as backend; amp = 1.0"),
        [("3:18 reserved-name", "another name"), ("3:27 reserved-name", "with `as`")],
    ),
    "a hyper called self, a state called maximize": (
        step("m <- m + g", "θ <- θ - self*m", state=("m = 0 as maximize",), hyper="self = 0.1"),
        [("3:9 python-keyword", "self = … as name")],
    ),
    "a reserved name": (step("θ <- θ - lr*g", state=(), hyper="lr = 0.1; g = 2"), [("3:19 reserved-name", "another name")]),
    "a Python keyword outside": (
        step("θ <- θ - λ*g", state=(), hyper="λ = 0.1"),
        [("3:9 python-keyword", "λ = … as name")],
    ),
    "a Python keyword after as": (
        step("θ <- θ - x*g", state=(), hyper="x = 0.1 as class"),
        [("3:20 python-keyword", "another")],
    ),
    "a default outside its range": (
        step("θ <- θ - lr*g", state=(), hyper="lr = -1 in [0, inf)"),
        [("3:14 default-out-of-range", "change one")],
    ),
    "an element outside its range": (
        step("θ <- θ - a*b*g", state=(), hyper="ab = (a = 0.5, b = 1.0) in [0, 1)"),
        [("3:28 default-out-of-range", "change one")],
    ),
    "a fraction that should be whole": (
        step("θ <- θ - k*g", state=(), hyper="k = 1.5 in int [1, inf)"),
        [("3:13 default-type", "`int`")],
    ),
    "a flag in an interval": (
        step("θ <- where(k, g, θ)", state=(), hyper="k = true in [0, 1]"),
        [("3:13 default-type", "interval")],
    ),
    "a text without choices": (
        step("θ <- θ - g", state=(), hyper='k = "a"'),
        [("3:9 unused-hyper", ""), ("3:13 default-type", 'k = "a" in {"a", …}')],
    ),
    "a number among choices": (
        step('θ <- where(k == "a", θ, g)', state=(), hyper='k = 1 in {"a", "b"}'),
        [("3:13 default-type", "one of the texts")],
    ),
    "a default that is not a choice": (
        step('θ <- where(k == "a", θ, g)', state=(), hyper='k = "c" in {"a", "b"}'),
        [("3:13 default-out-of-range", '"a", "b"')],
    ),
    "an empty interval": (
        step("θ <- θ - k*g", state=(), hyper="k = 1 in (1, 1)"),
        [
            ("3:18 empty-domain", "smaller end"),
        ],
    ),
    "a flag in a tuple": (
        step("θ <- θ - a*b*g", state=(), hyper="k = (a = 1, b = true)"),
        [("3:25 tuple-element", "its own")],
    ),
    "none in a tuple": (step("θ <- θ - a*b*g", state=(), hyper="k = (a = 1, b = none)"), [("3:25 tuple-element", "its own")]),
    "a tuple as a value": (
        step("θ <- θ - a*k*g", state=(), hyper="k = (a = 1, b = 2)"),
        [("3:21 unused-hyper", ""), ("5:20 tuple-as-value", "`a`, `b`")],
    ),
    # --- conditions on states
    "a state that may not exist": (
        step("b <- g", "θ <- θ - lr*b", state=("if lr > 0: b = 0",)),
        [("7:9 state-may-not-exist", "if lr > 0:"), ("8:21 state-may-not-exist", "if lr > 0:")],
    ),
    "the wrong side": (
        step("if k: b <- g", "else: θ2 = b + g", "θ <- θ - lr*g", hyper="lr = 0.1; k = true", state=("if k: b = 0",)),
        [("8:15 unused-local", ""), ("8:20 state-may-not-exist", "if k:")],
    ),
    "the otherwise side of a static where": (
        step("θ <- θ - where(k, 1, b)*lr", hyper="lr = 0.1; k = true", state=("if k: b = 0",)),
        [("7:30 state-may-not-exist", "if k:")],
    ),
    "a state under a condition that is not static": (
        step("b <- g", "θ <- θ - lr*b", state=("if lr > numel: b = 0",)),
        [("5:12 not-static", "flags, choices")],
    ),
    "a state under a condition on t": (
        step("b <- g", "θ <- θ - lr*b", state=("if t > 1: b = 0",)),
        [("5:12 not-readable-here", "`ndim`")],
    ),
    "an initial value from t": (step(*END, state=("m = t",)), [("5:13 not-readable-here", "hypers, θ and g")]),
    "an initial value from a state": (step("θ <- θ - lr*m*v", state=("m = 0; v = m",)), [("5:20 not-readable-here", "hypers")]),
    "a host state that starts from θ": (
        step("θ <- θ - lr*P*g", state=("P = θ per tensor",)),
        [("5:13 not-readable-here", "hypers and numbers")],
    ),
    "require on t": (step(*END, hyper='lr = 0.1; require t > 0, "x"'), [("3:27 not-readable-here", "hypers only")]),
    "require on a number": (step(*END, hyper='lr = 0.1; require lr, "x"'), [("3:27 expected-condition", "!= 0")]),
    "a hyper that may be none": (
        step("θ <- θ - w*g", state=(), hyper="w = none"),
        [("5:18 maybe-none", "if w != none:")],
    ),
    "a hyper that is never none": (
        step("θ <- θ - where(w == none, 1, 2)*g", state=(), hyper="w = 1"),
        [("5:29 never-none", "default")],
    ),
    # --- extents and kinds
    "an elem value in a state per tensor": (
        step("P <- P*(1 + g)", "θ <- θ - lr*P", state=("P = 1 per tensor",)),
        [("7:21 wrong-extent", "take `per tensor` off `P`, or reduce the value")],
    ),
    "an elem condition": (step("if t > 1 and g > 0: m <- g", *END), [("7:22 elem-condition", "where")]),
    "an unknown extent": (step("m <- g", END[1], state=("m = 0 per tensr",)), [("5:19 unknown-extent", "per tensor")]),
    "a reduction of a number": (step("m <- g/norm(lr)", END[1]), [("7:16 wrong-extent", "take the reduction off")]),
    "a reduction of a reduction": (step("m <- g/max(sum(g))", END[1]), [("7:20 wrong-extent", "take the reduction off")]),
    "a count of numbers": (step("m <- g/count(g)", END[1]), [("7:22 expected-condition", "!= 0")]),
    "a reduction in an initial value": (
        step("m <- m + g", END[1], state=("m = norm(g)",)),
        [("5:13 not-readable-here", "`step`")],
    ),
    "a matrix product": (step("m <- g @ g", END[1]), [("7:14 unsupported", "")]),
    "a matrix function": (step("m <- gram(g)", END[1]), [("7:14 unsupported", "")]),
    "indexing": (step("m <- m[0]", END[1]), [("7:14 unsupported", "")]),
    "a condition as a number": (step("m <- g*(g > 0)", END[1]), [("7:17 expected-number", "where(c, 1, 0)")]),
    "a flag as a number": (step("m <- k*g", END[1], hyper="lr = 0.1; k = true"), [("7:14 expected-number", "where")]),
    "a condition as an argument": (step("m <- ema(m, g > 0, 0.9)", END[1]), [("7:21 expected-number", "where")]),
    "storing a condition": (step("m <- g > 0", END[1]), [("7:14 expected-number", "where")]),
    "a number as a condition": (step("if lr: m <- g", *END), [("7:12 expected-condition", "!= 0")]),
    "not of a number": (step("if not t: m <- g", *END), [("7:16 expected-condition", "!= 0")]),
    "equal conditions": (step("if k == true: m <- g", *END, hyper="lr = 0.1; k = true"), [("7:12 expected-number", "`and`")]),
    "different sides of where": (step("m <- where(t > 1, g, g > 0)", END[1]), [("7:30 expected-number", "where")]),
    "an unknown choice": (
        step('if k == "fats": m <- g', *END, hyper='lr = 0.1; k = "fast" in {"fast", "slow"}'),
        [("7:17 unknown-choice", 'did you mean "fast"?')],
    ),
    "a choice as a number": (
        step("m <- k*g", END[1], hyper='lr = 0.1; k = "fast" in {"fast", "slow"}'),
        [("7:14 expected-number", "==")],
    ),
    "order of choices": (
        step('if k < "fast": m <- g', *END, hyper='lr = 0.1; k = "fast" in {"fast", "slow"}'),
        [("7:12 literal-as-value", "`==`")],
    ),
    "a text as a value": (step('m <- "a"', END[1]), [("7:14 literal-as-value", "")]),
    # --- calls and tuples
    "too few arguments": (step("m <- ema(m, g)", END[1]), [("7:14 wrong-arity", "ema(m, x, beta)")]),
    "too many arguments": (step("m <- √g + sign(g, m)", END[1]), [("7:19 wrong-arity", "sign(x)")]),
    "new of a local": (step("if new(lr): m <- g", *END), [("7:16 new-of-state", "new(m)")]),
    "new of an unknown state": (step("if new(n): m <- g", *END), [("7:16 unknown-state", "")]),
    "tuples of different length": (
        step("(m, v) <- (g, g, g)", "θ <- θ - lr*m*v", state=("m = 0; v = 0",)),
        [("7:9 tuple-length", "one value")],
    ),
    "several values of one call": (
        step("(m, v) <- sign(g)", "θ <- θ - lr*m*v", state=("m = 0; v = 0",)),
        [("7:19 unsupported", "(a, b)")],
    ),
    "one name twice": (step("(m, m) <- (g, g)", END[1]), [("7:13 duplicate-name", "")]),
    # --- θ
    "no write to θ": (step("m <- ema(m, g, lr)"), [("7:9 missing-theta-write", "theta <- ")]),
    "two writes to θ": (step(*END, "θ <- θ - g"), [("9:9 repeated-theta-write", "once")]),
    "θ in a branch": (step(END[0], "if t > 1: θ <- θ - lr*m"), [("8:19 nested-theta-write", "after them")]),
    "θ in every": (step(END[0], "every 2: θ <- θ - lr*m"), [("8:18 nested-theta-write", "after them")]),
    # --- branches
    "bound in one branch": (
        step("if t > 1: u = g", "m <- u", END[1]),
        [("8:14 bound-in-one-branch", "before the `if`")],
    ),
    "different kinds in the branches": (
        step("if t > 1: u = g", "else: u = t > 2", "m <- u", END[1]),
        [("7:9 branches-differ", "in both")],
    ),
    "stop is not last": (step("if t == 1: stop; m <- g", *END), [("7:26 unreachable", "last")]),
    "both branches stop": (
        step("if t == 1:", "    m <- g", "    stop", "else: stop", *END),
        [("11:9 unreachable", "last")],
    ),
    "a period that is not whole": (step("every 1.5: m <- g", *END), [("7:15 every-period", "whole number")]),
    "a period of zero": (step("every 0: m <- g", *END), [("7:15 every-period", "whole number")]),
    "a period that may be fractional": (step("every lr: m <- g", *END), [("7:15 every-period", "in int [1, inf)")]),
    "a period that may be zero": (
        step("every k: m <- g", *END, hyper="lr = 0.1; k = 2 in int [0, inf)"),
        [("7:15 every-period", "in int [1, inf)")],
    ),
    "return outside a define": (step(*END, "return m"), [("9:9 misplaced-return", "stop")]),
    # --- defines
    "recursion": (
        step("m <- f(g)", END[1], more=("define f(x) = h(x)", "define h(x) = f(x) + 1")),
        [("9:12 recursive-define", "in place"), ("10:12 recursive-define", "in place")],
    ),
    "a define that reads a state": (
        step("m <- f(g)", END[1], more=("define f(x) = x + m",)),
        [("9:23 impure-define", "argument")],
    ),
    "a define that reads θ": (step("m <- f(g)", END[1], more=("define f(x) = x + θ",)), [("9:23 impure-define", "argument")]),
    "a define that writes": (
        step("m <- f(g)", END[1], more=("define f(x):", "    m <- x", "    return x")),
        [("10:9 impure-define", "in `step`")],
    ),
    "a define that stops": (
        step("m <- f(g)", END[1], more=("define f(x):", "    if x > 1: stop", "    return x")),
        [("10:19 stop-in-define", "in `step` itself")],
    ),
    "a define without return": (
        step("m <- f(g)", END[1], more=("define f(x):", "    y = x")),
        [("9:12 missing-return", "return value")],
    ),
    "a define with the name of a function": (
        step("m <- g", END[1], more=("define ema(x) = x",)),
        [("9:12 reserved-name", "another")],
    ),
    "two defines": (
        step("m <- f(g)", END[1], more=("define f(x) = x", "define f(y) = y")),
        [("10:12 duplicate-name", "")],
    ),
    "a mistake in a define is said once": (
        step("m <- f(g) + f(m)", "u = f(lr)", "θ <- θ - lr*m*u", more=("define f(x) = x + foo",)),
        [("10:23 unknown-name", "")],
    ),
    "a define that becomes too large": (
        step(
            "m <- f9(g)",
            END[1],
            more=(
                "define f0(x) = x*x + x*x",
                *(f"define f{i}(x) = f{i - 1}(x + 1)*f{i - 1}(x - 1)*f{i - 1}(x)" for i in range(1, 10)),
            ),
        ),
        [("7:14 too-large", "fewer nested calls")],
    ),
    # --- entries
    "an entry that writes θ": (
        step(*END, more=("entry f(h per elem):", "    θ <- θ - h", "    m <- m*h")),
        [("10:9 entry-writes-theta", "in `step`")],
    ),
    "an entry that writes nothing": (
        step(*END, more=("entry f(h per elem):", "    if t > 1: u = h*h")),
        [("9:11 entry-without-write", "write states"), ("10:19 unused-local", "")],
    ),
    "an entry that reads g": (
        step(*END, more=("entry f(h per elem):", "    m <- h*g")),
        [("10:16 not-readable-here", "its inputs")],
    ),
    "an entry on a state that starts from g": (
        step(*END, state=("m = g",), more=("entry f(h per elem):", "    m <- m*h")),
        [("10:9 needs-gradient", "another initial value"), ("10:14 needs-gradient", "another initial value")],
    ),
    "an input per tensor": (step(*END, more=("entry f(h per tensor):", "    m <- 2*m")), [("9:13 unsupported", "per elem")]),
    "an entry that hides a method": (
        step(*END, more=("entry zero_grad(h per elem):", "    m <- m*h")),
        [("9:11 reserved-name", "another name")],
    ),
    "an entry that hides a private attribute": (
        step(*END, more=("entry __init__(h per elem):", "    m <- m*h")),
        [("9:11 reserved-name", "another name")],
    ),
    "an entry twice": (
        step(*END, more=("entry f(h per elem):", "    m <- m*h", "entry f(h per elem):", "    m <- m*h")),
        [("11:11 reserved-name", "another name")],
    ),
    # --- all at once
    "several mistakes in one run": (
        step("m = ema(m, g, b1)", "u <- norm(m)", "if g > 0: u = m", "θ <- θ - lr*v", hyper="lr = 2 in (0, 1]; eps = 1e-8"),
        [
            ("3:14 default-out-of-range", ""),
            ("3:27 unused-hyper", ""),
            ("7:9 assign-to-state", ""),
            ("7:23 unknown-name", ""),
            ("8:9 write-to-non-state", ""),
            ("9:12 elem-condition", ""),
            ("10:21 unknown-name", ""),
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_each_mistake_is_found_at_its_place_with_a_hint(text: str, expected: list[tuple[str, str]]) -> None:
    error = diagnose(text)
    assert found(error) == [place for place, _ in expected], error.render()
    for diagnostic, (_, hint) in zip(error.diagnostics, expected, strict=True):
        assert hint in (diagnostic.hint or ""), error.render()
