"""What texts mean: nodes, spans and spellings."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from optc.dsl import nodes
from optc.dsl.errors import OptcError, SpecError
from optc.dsl.nodes import (
    Assign,
    Binary,
    Boolean,
    Call,
    Choice,
    Element,
    Hyper,
    If,
    Index,
    Interval,
    Name,
    Nothing,
    Number,
    Require,
    Return,
    State,
    StateIf,
    Stop,
    Text,
    Unary,
    Write,
)
from optc.dsl.parse import parse
from optc.dsl.read import read
from optc.dsl.source import Source
from tests.dsl.texts import ADAMW, ADOPT, SGD


def _parse(text: str) -> nodes.Spec:
    return parse(Source("<text>", text))


def _step(text: str) -> tuple[nodes.Statement, ...]:
    return _parse(f"optimizer X:\n    step:\n        {text}\n").optimizer.step


def _value(text: str) -> object:
    statement = _step(f"x = {text}")[0]
    assert isinstance(statement, Assign)
    return statement.value


X, Y, ZERO, ONE, INF = Name("x"), Name("y"), Number(0), Number(1), Name("inf")


def test_adamw() -> None:
    optimizer = _parse(ADAMW).optimizer
    unit = Interval(ZERO, INF, True, False, False)
    assert optimizer.name == "AdamW"
    assert optimizer.text == "Adam with decoupled weight decay."
    assert optimizer.cites == ("arXiv:1711.05101",)
    assert optimizer.notes == ("eps is added outside the root.",)
    assert optimizer.hypers == (
        Hyper("lr", Number(1e-3), domain=unit, text="step size"),
        Hyper(
            "betas",
            (Element("beta1", Number(0.9)), Element("beta2", Number(0.999))),
            domain=Interval(ZERO, ONE, True, False, False),
        ),
        Hyper("eps", Number(1e-8), domain=unit),
        Hyper("weight_decay", Number(1e-2), domain=unit),
    )
    assert optimizer.states == (State("m", ZERO, "exp_avg"), State("v", ZERO, "exp_avg_sq"))
    assert len(optimizer.step) == 6
    assert optimizer.step[1] == Write((Name("v"),), Call("ema", (Name("v"), Binary("^", Name("g"), Number(2)), Name("beta2"))))
    assert optimizer.step[2] == Assign((Name("m_hat"),), Call("debias", (Name("m"), Name("beta1"))))
    assert type(optimizer.step[2].targets[0].id) is str


def test_sgd() -> None:
    optimizer = _parse(SGD).optimizer
    momentum, none = Name("momentum"), Binary("!=", Name("momentum"), ZERO)
    assert [hyper.name for hyper in optimizer.hypers] == ["lr", "momentum", "dampening", "weight_decay", "nesterov"]
    assert optimizer.hypers[4].default == Boolean(False)
    assert optimizer.requires == (
        Require(
            Binary(
                "or",
                Unary("not", Name("nesterov")),
                Binary("and", Binary(">", momentum, ZERO), Binary("==", Name("dampening"), ZERO)),
            ),
            "Nesterov needs a momentum and no dampening",
        ),
    )
    assert optimizer.states == (StateIf(none, (State("b", ZERO, "momentum_buffer"),), ()),)
    branch = optimizer.step[2]
    assert isinstance(branch, If)
    assert branch.condition == none
    inner = branch.then[0]
    assert isinstance(inner, If)
    assert inner.then == (Write((Name("b"),), Name("g")),)
    assert len(inner.otherwise) == 1


def test_adopt() -> None:
    optimizer = _parse(ADOPT).optimizer
    assert optimizer.step[0] == If(
        Binary("==", Name("t"), ONE), (Write((Name("v"),), Binary("^", Name("g"), Number(2))), Stop()), ()
    )
    power = Binary("^", Binary("-", Name("t"), ONE), Number(0.25))
    assert optimizer.step[1] == Assign(
        (Name("n"),),
        Call(
            "clamp", (Binary("/", Name("g"), Call("max", (Call("sqrt", (Name("v"),)), Name("eps")))), Unary("-", power), power)
        ),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-x^2", Unary("-", Binary("^", X, Number(2)))),
        ("2^-x", Binary("^", Number(2), Unary("-", X))),
        ("x^y^2", Binary("^", X, Binary("^", Y, Number(2)))),
        ("x - y - 1", Binary("-", Binary("-", X, Y), ONE)),
        ("x/y*2", Binary("*", Binary("/", X, Y), Number(2))),
        ("x mod 2 @ y", Binary("@", Binary("mod", X, Number(2)), Y)),
        ("-x*y", Binary("*", Unary("-", X), Y)),
        ("not x == y", Unary("not", Binary("==", X, Y))),
        ("x or y and not x", Binary("or", X, Binary("and", Y, Unary("not", X)))),
        ("x ∨ y ∧ ¬x", Binary("or", X, Binary("and", Y, Unary("not", X)))),
        ("x'[0]''", Unary("'", Unary("'", Index(Unary("'", X), ZERO)))),
        ("xᵀ", Unary("'", X)),
        ("√x", Call("sqrt", (X,))),
        ("√x*y", Binary("*", Call("sqrt", (X,)), Y)),
        ("√√x", Call("sqrt", (Call("sqrt", (X,)),))),
        ("2^√x", Binary("^", Number(2), Call("sqrt", (X,)))),
        ("√f(x)", Call("sqrt", (Call("f", (X,)),))),
        ("-√2", Unary("-", Call("sqrt", (Number(2),)))),
        ("|x|", Call("abs", (X,))),
        ("||x| - |y||", Call("abs", (Binary("-", Call("abs", (X,)), Call("abs", (Y,))),))),
        ("‖|x| - ‖y‖‖²", Binary("^", Call("norm", (Binary("-", Call("abs", (X,)), Call("norm", (Y,))),)), Number(2))),
        ("⟨x, y⟩", Call("dot", (X, Y))),
        ("⌊x/2⌋", Call("floor", (Binary("/", X, Number(2)),))),
        ("x²", Binary("^", X, Number(2))),
        ("x⁻¹⁰", Binary("^", X, Unary("-", Number(10)))),
        ("β₁²", Binary("^", Name("beta1"), Number(2))),
        ("x·y⊙x", Binary("*", Binary("*", X, Y), X)),
        ("x ≤ y", Binary("<=", X, Y)),
        ("x<y", Binary("<", X, Y)),
        ("x< -1", Binary("<", X, Unary("-", ONE))),
        ("x ≠ y", Binary("!=", X, Y)),
        ("∞ + π", Binary("+", INF, Name("pi"))),
        ("f()", Call("f", ())),
        ("notx", Name("notx")),
        ("android", Name("android")),
        ("modx", Name("modx")),
        ("none == x", Binary("==", Nothing(), X)),
        ("falseᵀ", Unary("'", Boolean(False))),
        ('"a\\"\\n\\\\\\u{3b8}" == x', Binary("==", Text('a"\n\\θ'), X)),
        ("(x,\n   y)\n    ", (X, Y)),
        ("f(x,  # why\n\n# not\n y)", Call("f", (X, Y))),
        ("1", Number(1)),
        (".5", Number(0.5)),
        ("2.", Number(2.0)),
        ("1E+3", Number(1000.0)),
    ],
)
def test_expressions(text: str, expected: object) -> None:
    value = _value(text)
    assert value == expected
    if isinstance(expected, Number) and isinstance(value, Number):
        assert type(value.value) is type(expected.value)


def test_statements() -> None:
    assert _step("(a, b) <- (x, y); (a, b) = f(x); stop; return x") == (
        Write((Name("a"), Name("b")), (X, Y)),
        Assign((Name("a"), Name("b")), Call("f", (X,))),
        Stop(),
        Return(X),
    )
    assert _step("every 2: stop\n        every x from y + 1:\n            stop") == (
        nodes.Every(Number(2), None, (Stop(),)),
        nodes.Every(X, Binary("+", Y, ONE), (Stop(),)),
    )
    chain = _step("if x: stop\n        else if y: stop\n        else:\n            stop")
    assert chain == (If(X, (Stop(),), (If(Y, (Stop(),), (Stop(),)),)),)
    assert chain == _step("if x: stop\n        else:\n            if y: stop\n            else: stop")


def test_declarations() -> None:
    text = """\
define f(β, x) = x + β
optimizer X:
    define h():
        y = 1
        return y
    entry update_hessian(g_s per elem, n per tensor) every 10: stop
    entry other(): stop
    cite "A. Author # 1"
    cite https://a.b/c#d   # a comment
    step: stop
    state: P = 1 per tensor as mu_product; Q = 1 as q per row
    hyper:
        d0 = 1e-6 as D shared in (0, inf) "t"; c = "a" in {"a", "b"}; T = none in int [1, ∞)
        b = (λ = -1.0) shared in (-∞, π]
"""
    spec = _parse(text)
    optimizer = spec.optimizer
    assert spec.defines == (nodes.Define("f", ("beta", "x"), (Return(Binary("+", X, Name("beta"))),)),)
    assert optimizer.defines == (nodes.Define("h", (), (Assign((Y,), ONE), Return(Y))),)
    assert optimizer.entries == (
        nodes.Entry("update_hessian", (nodes.Input("g_s", "elem"), nodes.Input("n", "tensor")), 10, (Stop(),)),
        nodes.Entry("other", (), None, (Stop(),)),
    )
    assert optimizer.cites == ("A. Author # 1", "https://a.b/c#d")
    assert optimizer.states == (State("P", ONE, "mu_product", "tensor"), State("Q", ONE, "q", "row"))
    assert optimizer.hypers == (
        Hyper("d0", Number(1e-6), "D", True, domain=Interval(ZERO, INF, False, False, False), text="t"),
        Hyper("c", Text("a"), domain=Choice(("a", "b"))),
        Hyper("T", Nothing(), domain=Interval(ONE, INF, True, False, True)),
        Hyper(
            "b",
            (Element("lambda", Unary("-", Number(1.0))),),
            shared=True,
            domain=Interval(Unary("-", INF), Name("pi"), False, True, False),
        ),
    )


def test_every_node_points_at_its_text() -> None:
    text = ADOPT
    spec = _parse(text)

    def at(node: nodes.Node) -> str:
        return text[node.span.start : node.span.end]

    optimizer = spec.optimizer
    clamp = optimizer.step[1]
    assert isinstance(clamp, Assign)
    assert at(clamp) == "n = clamp(g/max(√v, ε), -(t - 1)^0.25, (t - 1)^0.25)"
    call = clamp.value
    assert isinstance(call, Call)
    assert [at(argument) for argument in call.arguments] == ["g/max(√v, ε)", "-(t - 1)^0.25", "(t - 1)^0.25"]
    assert at(optimizer.hypers[1]) == "betas = (β1 = 0.9, β2 = 0.9999) in [0, 1)"
    assert isinstance(optimizer.hypers[1].domain, Interval)
    assert at(optimizer.hypers[1].domain) == "[0, 1)"
    assert at(optimizer.states[1]) == "v = 0 as exp_avg_sq"
    branch = optimizer.step[0]
    assert isinstance(branch, If)
    assert [at(branch.condition), *map(at, branch.then)] == ["t == 1", "v <- g²", "stop"]


def test_line_ends_and_marks_of_files(tmp_path: Path) -> None:
    path = tmp_path / "adamw.opt"
    path.write_bytes(b"\xef\xbb\xbf" + ADAMW.replace("\n", "\r\n").replace("m̂", "m\u0302").encode())
    assert parse(read(path)) == _parse(ADAMW)
    assert parse(Source("<text>", "\ufeff" + ADAMW.replace("\n", "\r\n"))) == _parse(ADAMW)
    assert parse(Source("<text>", ADAMW.rstrip("\n"))) == _parse(ADAMW)
    assert parse(Source("<text>", "\n\n  # a\n" + ADAMW + "\n   \n    # b")) == _parse(ADAMW)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OptcError, match="there is no such file"):
        read(tmp_path / "missing.opt")
    with pytest.raises(OptcError, match="this is a directory"):
        read(tmp_path)
    with pytest.raises(OptcError, match="cannot be read"):
        read("a\0b")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OptcError, match="no regular file"):
        read(fifo)
    large = tmp_path / "large.opt"
    large.write_bytes(b"#" * 4_000_001)
    with pytest.raises(OptcError, match="larger than"):
        read(large)
    wide = tmp_path / "wide.opt"
    wide.write_text(ADAMW, encoding="utf-16")
    with pytest.raises(OptcError, match="UTF-16"):
        read(wide)
    bad = tmp_path / "bad.opt"
    bad.write_bytes("# β\nopti\xff".encode("latin-1", "replace").replace(b"?", "β".encode()))
    with pytest.raises(SpecError, match="the byte 0xff is not UTF-8") as caught:
        read(bad)
    assert caught.value.source.position(caught.value.diagnostics[0].span.start) == (2, 5)


def test_threads_do_not_disturb_one_another() -> None:
    texts = [ADAMW, SGD, ADOPT] * 6
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_parse, texts)) == [_parse(text) for text in texts]


def test_one_file_takes_less_than_a_second(tmp_path: Path) -> None:
    """Processor time of a whole process: importing lark, building its tables, parsing."""
    path = tmp_path / "adamw.opt"
    path.write_text(ADAMW, encoding="utf-8")
    code = (
        "import sys, time\nfrom optc.dsl.parse import parse\nfrom optc.dsl.read import read\n"
        "parse(read(sys.argv[1]))\nassert 'torch' not in sys.modules\nprint(time.process_time())"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, env=environment)
    assert float(done.stdout) < 1.0
