"""Hypothesis strategies for random specs as written: everything the syntax can hold, whether or not it means anything."""

from __future__ import annotations

from hypothesis import strategies as st

from optc.dsl import nodes
from optc.dsl.literals import MAX_INTEGER

_PARTS = [
    "theta",
    "g",
    "t",
    "m",
    "v",
    "beta1",
    "beta2",
    "eps",
    "lambda",
    "pi",
    "inf",
    "x1",
    "x",
    "m_hat",
    "hat",
    "bar",
    "tilde",
    "i",
    "exp",
    "avg",
    "max",
    "Delta",
    "mu",
    "2",
    "10",
    "atan2",
    "A",
    "shape",
    "matrix",
    "row",
]
identities = (
    st.lists(st.sampled_from(_PARTS), min_size=1, max_size=3)
    .map("_".join)
    .map(lambda name: "_" + name if name[0].isdigit() else name)
)
"""Names by their identity, with every kind of part that the mathematical spelling treats in its own way."""

functions = (
    st.sampled_from(["sqrt", "abs", "norm", "dot", "floor", "max", "ema", "norm1", "gamma"])
    | st.sampled_from(["rowmean", "rowmax", "colsum", "colmin", "outer", "total", "total_norm"])
    | identities
)
extents = st.sampled_from(["model", "group", "tensor", "matrix", "row", "col", "elem"])
texts = st.text('"\\\n\t#;ab é\u0302\u2028\0😀', max_size=6)
numbers = (
    st.integers(0, MAX_INTEGER) | st.floats(0, allow_infinity=False, allow_nan=False) | st.sampled_from([1e-3, 0.999, 1e-8])
).map(lambda value: nodes.Number(value if isinstance(value, int) else abs(value)))
names = identities.map(nodes.Name)
constants = st.one_of(numbers, st.sampled_from([nodes.Name("inf"), nodes.Name("pi")]))
bounds = constants | constants.map(lambda number: nodes.Unary("-", number))
literals = bounds | st.booleans().map(nodes.Boolean) | texts.map(nodes.Text) | st.just(nodes.Nothing())

_BINARY: list[nodes.BinaryOperator] = ["+", "-", "*", "/", "@", "mod", "^", "<", "<=", ">", ">=", "==", "!=", "and", "or"]
_UNARY: list[nodes.UnaryOperator] = ["-", "not", "'"]


def _larger(inner: st.SearchStrategy[nodes.Expression]) -> st.SearchStrategy[nodes.Expression]:
    return st.one_of(
        st.builds(nodes.Binary, st.sampled_from(_BINARY), inner, inner),
        st.builds(nodes.Unary, st.sampled_from(_UNARY), inner),
        st.builds(nodes.Call, functions, st.lists(inner, max_size=3).map(tuple)),
        st.builds(nodes.Index, inner, inner),
    )


_leaves: st.SearchStrategy[nodes.Expression] = st.one_of(names, numbers, literals)
expressions: st.SearchStrategy[nodes.Expression] = st.recursive(_leaves, _larger, max_leaves=5)
"""Random expressions of every operator, with brackets needed in every place."""

_several = st.lists(names, min_size=2, max_size=3).map(tuple)
_values: st.SearchStrategy[nodes.Expression | tuple[nodes.Expression, ...]] = expressions | st.lists(
    expressions, min_size=2, max_size=3
).map(tuple)
_targets = names.map(lambda name: (name,)) | _several
_simple: st.SearchStrategy[nodes.Statement] = st.one_of(
    st.builds(nodes.Assign, _targets, _values),
    st.builds(nodes.Write, _targets, _values),
    st.builds(nodes.Stop),
    st.builds(nodes.Return, expressions),
)


def _body(inner: st.SearchStrategy[nodes.Statement]) -> st.SearchStrategy[tuple[nodes.Statement, ...]]:
    return st.lists(inner, min_size=1, max_size=3).map(tuple)


statements: st.SearchStrategy[nodes.Statement] = st.recursive(
    _simple,
    lambda inner: st.one_of(
        st.builds(nodes.If, expressions, _body(inner), st.just(()) | _body(inner)),
        st.builds(nodes.Every, expressions, st.none() | expressions, _body(inner)),
    ),
    max_leaves=4,
)
blocks = _body(statements)

_intervals = st.builds(nodes.Interval, bounds, bounds, st.booleans(), st.booleans(), st.booleans())
_choices = st.builds(nodes.Choice, st.lists(texts, min_size=1, max_size=3).map(tuple))
_elements = st.lists(st.builds(nodes.Element, identities, literals), min_size=1, max_size=3).map(tuple)
hypers = st.builds(
    nodes.Hyper,
    identities,
    literals | _elements,
    st.none() | identities,
    st.booleans(),
    st.booleans(),
    st.none() | _intervals | _choices,
    st.none() | texts,
)
requires = st.builds(nodes.Require, expressions, texts)
_state = st.builds(nodes.State, identities, expressions, st.none() | identities, st.none() | extents)
_states: st.SearchStrategy[nodes.StateItem] = st.recursive(
    _state,
    lambda inner: st.builds(
        nodes.StateIf,
        expressions,
        st.lists(inner, min_size=1, max_size=2).map(tuple),
        st.lists(inner, max_size=2).map(tuple),
    ),
    max_leaves=3,
)
defines = st.builds(nodes.Define, identities, st.lists(identities, max_size=2).map(tuple), blocks)
entries = st.builds(
    nodes.Entry,
    identities,
    st.lists(st.builds(nodes.Input, identities, extents), max_size=2).map(tuple),
    st.none() | st.integers(1, 100),
    blocks,
)
references = st.sampled_from(
    ["arXiv:1711.05101", "doi:10.1/a#b", "https://a.b/c#d", "# x", '"', "a  # b", "A. Author, 2020"]
) | texts.filter(bool)
shapes = st.none() | st.just("matrix")
optimizers = st.builds(
    nodes.Optimizer,
    name=identities,
    text=st.none() | texts,
    cites=st.lists(references, max_size=2).map(tuple),
    notes=st.lists(texts, max_size=2).map(tuple),
    hypers=st.lists(hypers, max_size=3).map(tuple),
    requires=st.lists(requires, max_size=1).map(tuple),
    states=st.lists(_states, max_size=2).map(tuple),
    defines=st.lists(defines, max_size=1).map(tuple),
    step=blocks,
    entries=st.lists(entries, max_size=1).map(tuple),
    shape=shapes,
)
specs: st.SearchStrategy[nodes.Spec] = st.builds(nodes.Spec, optimizers, st.lists(defines, max_size=2).map(tuple))
"""Random specs, as the parser could return them."""

_points: st.SearchStrategy[tuple[nodes.Stage, str, str | None]] = st.sampled_from(
    [
        ("clip", "g", None),
        ("project", "g", None),
        ("couple", "g", None),
        ("mix", "m_hat", None),
        ("mask", "m_hat", "u"),
        ("mask", "u", None),
        ("trust", "u", None),
        ("decay", "theta", None),
        ("constrain", "theta", None),
        ("average", "theta", None),
    ]
)
_hooks = st.builds(
    lambda place, alias, body: nodes.Hook(place[0], place[1], place[2], alias, body), _points, st.none() | identities, blocks
) | st.builds(nodes.Rewrite, st.lists(identities, min_size=1, max_size=3).map(tuple), expressions, expressions)
modifiers = st.builds(
    nodes.Modifier,
    name=identities,
    text=st.none() | texts,
    cites=st.lists(references, max_size=2).map(tuple),
    notes=st.lists(texts, max_size=2).map(tuple),
    hypers=st.lists(hypers, max_size=3).map(tuple),
    requires=st.lists(requires, max_size=1).map(tuple),
    states=st.lists(_states, max_size=2).map(tuple),
    defines=st.lists(defines, max_size=1).map(tuple),
    hooks=st.lists(_hooks, min_size=1, max_size=3).map(tuple),
    shape=shapes,
)
_arguments = st.lists(
    st.builds(nodes.Argument, st.none() | identities, literals | st.lists(literals, min_size=2, max_size=3).map(tuple)),
    max_size=3,
).map(tuple)
deriveds = st.builds(
    nodes.Derived,
    name=identities,
    base=st.builds(nodes.Term, identities, _arguments, st.lists(names, max_size=2).map(tuple)),
    modifiers=st.lists(st.builds(nodes.Term, identities, _arguments), max_size=3).map(tuple),
    text=st.none() | texts,
    cites=st.lists(references, max_size=2).map(tuple),
    notes=st.lists(texts, max_size=2).map(tuple),
)
_returning = st.builds(lambda body, value: (*body, nodes.Return(value)), blocks, expressions)
_schedules = st.builds(
    nodes.Schedule,
    name=identities,
    text=st.none() | texts,
    cites=st.lists(references, max_size=2).map(tuple),
    notes=st.lists(texts, max_size=2).map(tuple),
    hypers=st.lists(hypers, max_size=3).map(tuple),
    requires=st.lists(requires, max_size=1).map(tuple),
    defines=st.lists(defines, max_size=1).map(tuple),
    values=st.tuples(st.builds(nodes.Scheduled, st.just("lr"), _returning))
    | st.tuples(
        st.builds(nodes.Scheduled, st.just("momentum"), _returning), st.builds(nodes.Scheduled, st.just("lr"), _returning)
    ),
)
_terms = st.builds(nodes.Term, identities, _arguments)
_chains = st.builds(
    lambda name, links, last, text: nodes.Chain(name, (*links, nodes.Link(last)), text),
    identities,
    st.lists(st.builds(nodes.Link, _terms, st.integers(1, 9999)), max_size=3).map(tuple),
    _terms,
    st.none() | texts,
)
compositions: st.SearchStrategy[nodes.Composition] = st.builds(
    lambda derived, modifiers, defines, schedules: nodes.Composition(derived, modifiers, defines, schedules=schedules),
    st.none() | deriveds,
    st.lists(modifiers, max_size=2).map(tuple),
    st.lists(defines, max_size=1).map(tuple),
    st.lists(_schedules | _chains, max_size=2).map(tuple),
).filter(lambda file: file.optimizer is not None or bool(file.modifiers or file.schedules))
"""Random files of modifiers, schedules and compositions, as the parser could return them."""
