"""The functions of the language: what each takes, and what it stands for.

A function is a primitive operation of `dsl/program.py`, or a formula that the checker writes out like a user's `define`, or a
name known to the language that this version refuses with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optc.dsl.nodes import Binary, BinaryOperator, Call, Define, Expression, Name, Number, Return, Unary


@dataclass(frozen=True, slots=True)
class Builtin:
    """A function. `doc` is one line, starting with its formula where it has one.

    Exactly one of `operation` (a primitive), `formula` (written out in place) and `refused` (why not) is set; none of them is
    for `where`, `new` and `uniform`, which the checker knows. `reduces` says what a reduction goes over: all entries of a
    value, those along each row or column, or one number of each parameter of the model, or of a group.
    """

    name: str
    parameters: tuple[str, ...]
    doc: str
    operation: str | None = None
    formula: Define | None = None
    refused: str | None = None
    reduces: Literal["entries", "rows", "columns", "model", "group"] | None = None


def _binary(operator: BinaryOperator, left: Expression, right: Expression) -> Expression:
    return Binary(operator, left, right)


def _formula(name: str, parameters: tuple[str, ...], value: Expression, doc: str) -> Builtin:
    return Builtin(name, parameters, doc, formula=Define(name, parameters, (Return(value),)))


_one = Number(1)
_m, _x, _beta, _a, _b, _w, _low, _high = (Name(n) for n in ("m", "x", "beta", "a", "b", "w", "low", "high"))

_FORMULAS = (
    _formula(
        "ema",
        ("m", "x", "beta"),
        _binary("+", _binary("*", _beta, _m), _binary("*", _binary("-", _one, _beta), _x)),
        "beta*m + (1 - beta)*x: exponential moving average",
    ),
    _formula(
        "debias",
        ("m", "beta"),
        _binary("/", _m, _binary("-", _one, _binary("^", _beta, Name("t")))),
        "m/(1 - beta^t): removes the bias of an average that started at 0",
    ),
    _formula(
        "lerp",
        ("a", "b", "w"),
        _binary("+", _a, _binary("*", _w, _binary("-", _b, _a))),
        "a + w*(b - a): from a (w = 0) to b (w = 1)",
    ),
    _formula(
        "clamp",
        ("x", "low", "high"),
        Call("min", (Call("max", (_x, _low)), _high)),
        "min(max(x, low), high): x, kept within [low, high]",
    ),
)

_PRIMITIVES = (
    Builtin("min", ("a", "b"), "the smaller one; NaN passes through", operation="min"),
    Builtin("max", ("a", "b"), "the larger one; NaN passes through", operation="max"),
    Builtin("sign", ("x",), "-1, 0 or 1; sign(0) is 0, sign(NaN) is NaN", operation="sign"),
    Builtin("sqrt", ("x",), "square root; NaN below 0", operation="sqrt"),
    Builtin("exp", ("x",), "e to the power x", operation="exp"),
    Builtin("ln", ("x",), "natural logarithm", operation="log"),
    Builtin("log", ("x",), "natural logarithm, the same as ln", operation="log"),
    Builtin("abs", ("x",), "absolute value, also written |x|", operation="abs"),
    Builtin("floor", ("x",), "the largest whole number not above x", operation="floor"),
    Builtin("sin", ("x",), "sine of x radians", operation="sin"),
    Builtin("cos", ("x",), "cosine of x radians", operation="cos"),
    Builtin("cospi", ("x",), "cosine of pi*x: of half turns instead of radians", operation="cospi"),
    Builtin("tanh", ("x",), "hyperbolic tangent", operation="tanh"),
    Builtin("atan2", ("y", "x"), "angle of the point (x, y) in radians; atan2(0, 0) is 0", operation="atan2"),
    Builtin("pow", ("x", "y"), "x^y; pow(0, 0) is 1", operation="pow"),
    Builtin(
        "round_bf16",
        ("x", "u"),
        "x as bfloat16: the neighbour away from 0 where u, from [0, 1), is below x's share of the way to it",
        operation="round_bf16",
    ),
)

_SPECIAL = (
    Builtin("where", ("c", "a", "b"), "a where c holds, else b; both are evaluated unless c is static"),
    Builtin("new", ("state",), "whether the state was created in this very step"),
    Builtin("pick", ("x", "p"), "every p-th element of x, flattened, from the first one on", operation="pick"),
    Builtin("uniform", ("seed",), "a random number from [0, 1) for each element, another one at every step and call"),
)

_square = _binary("^", _x, Number(2))
_one_where = Call("where", (Name("c"), _one, Number(0)))
_REDUCTIONS = (
    Builtin("sum", ("x",), "sum over the elements", operation="sum", reduces="entries"),
    Builtin("mean", ("x",), "mean over the elements", operation="mean", reduces="entries"),
    Builtin("rowsum", ("x",), "sum along each row (over the last dimension)", operation="sum", reduces="rows"),
    Builtin("rowmean", ("x",), "mean along each row", operation="mean", reduces="rows"),
    Builtin("rowmax", ("x",), "largest element of each row", operation="largest", reduces="rows"),
    Builtin("rowmin", ("x",), "smallest element of each row", operation="smallest", reduces="rows"),
    Builtin("colsum", ("x",), "sum along each column (over the last dimension but one)", operation="sum", reduces="columns"),
    Builtin("colmean", ("x",), "mean along each column", operation="mean", reduces="columns"),
    Builtin("colmax", ("x",), "largest element of each column", operation="largest", reduces="columns"),
    Builtin("colmin", ("x",), "smallest element of each column", operation="smallest", reduces="columns"),
    Builtin("total", ("x",), "sum of one number per parameter over the whole model", operation="total", reduces="model"),
    Builtin(
        "group_total", ("x",), "sum of one number per parameter over a parameter group", operation="total", reduces="group"
    ),
    _formula("norm", ("x",), Call("sqrt", (Call("sum", (_square,)),)), "sqrt(sum(x^2)): Euclidean norm, also written ‖x‖"),
    _formula("norm1", ("x",), Call("sum", (Call("abs", (_x,)),)), "sum(|x|): sum of absolute values"),
    _formula("rms", ("x",), Call("sqrt", (Call("mean", (_square,)),)), "sqrt(mean(x^2)): root of the mean square"),
    _formula(
        "dot", ("a", "b"), Call("sum", (_binary("*", _a, _b),)), "sum(a*b): inner product of two tensors, also written ⟨a, b⟩"
    ),
    _formula("count", ("c",), Call("sum", (_one_where,)), "number of elements where the condition c holds"),
    _formula(
        "total_norm",
        ("x",),
        Call("sqrt", (Call("total", (Call("sum", (_square,)),)),)),
        "sqrt(total(sum(x^2))): Euclidean norm over the whole model",
    ),
    _formula(
        "group_norm",
        ("x",),
        Call("sqrt", (Call("group_total", (Call("sum", (_square,)),)),)),
        "sqrt(group_total(sum(x^2))): Euclidean norm over a parameter group",
    ),
    _formula("outer", ("r", "c"), _binary("*", Name("r"), Name("c")), "r*c: product of a value per row and one per column"),
    _formula("any", ("c",), _binary(">", Call("max", (_one_where,)), Number(0)), "whether c holds for some element"),
)
_seed = Name("seed")
_RANDOM = (
    _formula(
        "normal",
        ("seed",),
        _binary(
            "*",
            Call("sqrt", (_binary("*", Unary("-", Number(2)), Call("ln", (_binary("-", _one, Call("uniform", (_seed,))),))),)),
            Call("cospi", (_binary("*", Number(2), Call("uniform", (_seed,))),)),
        ),
        "a random number for each element, normally distributed with mean 0 and variance 1 (Box and Muller's transform)",
    ),
)
_MATRIX = ("gram", "mode", "inverse_root", "eigh_down", "qr", "diag", "permute", "columns", "top")
_OTHER = {
    "push": "ring windows are",
    "initial": "initial hyper values are",
    "average": "collectives are",
    "sign_average": "collectives are",
    "gradient": "further gradients are",
    "tagged": "parameter tags are",
}


def _refused(name: str, doc: str, what: str) -> Builtin:
    return Builtin(name, (), doc, refused=f"`{name}` {what} not part of this version of the language")


_REFUSED = (
    *(_refused(n, "matrix algebra", "is a matrix function; matrix functions are") for n in _MATRIX),
    *(_refused(n, what, f"is known, but {what}") for n, what in _OTHER.items()),
)

BUILTINS: dict[str, Builtin] = {b.name: b for b in (*_FORMULAS, *_PRIMITIVES, *_REDUCTIONS, *_RANDOM, *_SPECIAL, *_REFUSED)}
"""All functions by name."""

REDUCING_ALONE = {
    "min": Builtin("min", ("x",), "the smallest element", operation="smallest", reduces="entries"),
    "max": Builtin("max", ("x",), "the largest element", operation="largest", reduces="entries"),
}
"""With one argument these reduce over the tensor."""
