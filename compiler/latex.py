r"""The spec as LaTeX, from the nodes as written: what a paper's algorithm box would print.

Only commands that KaTeX and MathJax know. `ema`, `debias` and `lerp` are written out, so that the equations need no legend.
"""

from __future__ import annotations

from decimal import Decimal

from optc.dsl import nodes
from optc.dsl.names import GREEK, MARKS
from optc.dsl.scope import walk

# Precedence, loosest first. A fraction may stand in a product, but not under a power.
_CASES, _OR, _AND, _NOT, _COMPARE, _SUM, _MOD, _PRODUCT, _MINUS, _FRACTION, _ATOM = range(11)

_GREEK_NAMES = frozenset(GREEK.values())
_LATIN_CAPITALS = {
    "Alpha": "A", "Beta": "B", "Eps": "E", "Zeta": "Z", "Eta": "H", "Iota": "I", "Kappa": "K", "Mu": "M", "Nu": "N",
    "Omicron": "O", "Rho": "P", "Tau": "T", "Chi": "X",
}  # fmt: skip
_GIVEN = {"inf": r"\infty", "loss": r"\mathcal{L}"}
_ACCENTS = {"hat": r"\hat", "bar": r"\bar", "tilde": r"\tilde"}
_COMPARISONS = {"<": "<", "<=": r"\le", ">": ">", ">=": r"\ge", "==": "=", "!=": r"\ne"}
_FENCED = {
    "abs": (r"\left|", r"\right|"),
    "norm": (r"\left\Vert ", r"\right\Vert "),
    "norm1": (r"\left\Vert ", r"\right\Vert _1"),
    "total_norm": (r"\left\Vert ", r"\right\Vert _{\mathrm{model}}"),
    "group_norm": (r"\left\Vert ", r"\right\Vert _{\mathrm{group}}"),
    "floor": (r"\left\lfloor ", r"\right\rfloor "),
    "dot": (r"\left\langle ", r"\right\rangle "),
}
_ALONG = {
    f"{along}{what}": (r"\max" if what == "max" else r"\min" if what == "min" else rf"\operatorname{{{what}}}", along)
    for along in ("row", "col")
    for what in ("sum", "mean", "max", "min")
}
_FUNCTIONS = frozenset({"exp", "ln", "log", "sin", "cos", "tanh", "min", "max"})


def latex(spec: nodes.Spec) -> str:
    """All procedures of a spec, each as one `aligned` environment, its definitions first."""
    optimizer = spec.optimizer
    blocks = [_aligned(_define(d)) for d in (*spec.defines, *optimizer.defines)]
    blocks.append(_aligned(_block(optimizer.step)))
    for entry in optimizer.entries:
        inputs = ", ".join(name(i.name) for i in entry.inputs)
        heading = (rf"\textbf{{{_escape(entry.name)}}}\left({inputs}\right)\textbf{{:}}", None)
        blocks.append(_aligned([heading, *_indent(_block(entry.body))]))
    return "\n\n".join(blocks)


def schedule_latex(schedule: nodes.Schedule, defines: tuple[nodes.Define, ...] = ()) -> str:
    """What a schedule gives, as functions of what they read of the steps done and the value given, its definitions first."""
    blocks = [_aligned(_define(d)) for d in (*defines, *schedule.defines)]
    for value in schedule.values:
        read = {node.id for node in walk(value) if isinstance(node, nodes.Name)}
        function = nodes.Define(value.target, tuple(known for known in ("n", "base") if known in read), value.body)
        blocks.append(_aligned(_define(function)))
    return "\n\n".join(blocks)


def expression(node: nodes.Expression) -> str:
    """One expression as LaTeX."""
    return _print(node)[0]


def name(identity: str) -> str:
    r"""A name by its identity: `beta2_t` is `\beta_{2,t}`, `m_hat` is `\hat{m}`, `weight_decay` is `\mathrm{weight\_decay}`."""
    if identity in _GIVEN:
        return _GIVEN[identity]
    first, *rest = identity.split("_")
    letters = first.rstrip("0123456789")
    if not (letters in _GREEK_NAMES or len(letters) == 1):
        return rf"\mathrm{{{_escape(identity)}}}"
    base, below = _letter(letters), [first[len(letters) :]] * (letters != first)
    for part in rest:
        word = part.rstrip("0123456789")
        if word in MARKS.values():
            base = rf"{_ACCENTS[word]}{{{base}}}"
            below += [part[len(word) :]] * (word != part)
        elif word in _GREEK_NAMES or word == "inf" or len(word) <= 1:
            below.append(r"\infty" if word == "inf" else (_letter(word) if word else "") + part[len(word) :])
        else:
            below.append(rf"\mathrm{{{_escape(part)}}}")
    return f"{base}_{{{','.join(below)}}}" if below else base


def _letter(word: str) -> str:
    if word in _GREEK_NAMES:
        if word in _LATIN_CAPITALS:
            return rf"\mathrm{{{_LATIN_CAPITALS[word]}}}"
        return {"eps": r"\varepsilon", "omicron": "o"}.get(word, "\\" + word)
    return word


def _escape(text: str) -> str:
    special = {"\\": r"\textbackslash ", "~": r"\textasciitilde ", "^": r"\textasciicircum "}
    return "".join(special.get(c) or ("\\" + c if c in "&%$#_{}" else c) for c in text)


# --- statements ---------------------------------------------------------------------------------------------------------------

Line = tuple[str, str | None]
"""Left and right of the alignment; a line without a right side belongs to a block."""


def _aligned(lines: list[Line]) -> str:
    flat = all(right is not None for _, right in lines)
    joint = " &" if flat else " "
    rows = [left if right is None else left + joint + right for left, right in lines]
    body = " \\\\\n".join("  " + (row if flat else "& " + row) for row in rows)
    return rf"\begin{{aligned}}{chr(10)}{body}{chr(10)}\end{{aligned}}"


def _indent(lines: list[Line]) -> list[Line]:
    return [(r"\quad " + left, right) for left, right in lines]


def _define(define: nodes.Define) -> list[Line]:
    arguments = ", ".join(name(p) for p in define.parameters)
    head = rf"\operatorname{{{_escape(define.name)}}}\left({arguments}\right)"
    match define.body:
        case (nodes.Return(value=value),):
            return [(head, f"= {expression(value)}")]
        case body:
            return [(head + r"\textbf{:}", None), *_indent(_block(body))]


def _block(body: tuple[nodes.Statement, ...]) -> list[Line]:
    return [line for statement in body for line in _statement(statement)]


def _statement(statement: nodes.Statement) -> list[Line]:
    match statement:
        case nodes.Assign(targets=targets, value=value):
            return [(_group(targets), "= " + _group(value))]
        case nodes.Write(targets=targets, value=value):
            return [(_group(targets), r"\leftarrow " + _group(value))]
        case nodes.If():
            return _if(statement, r"\textbf{if }")
        case nodes.Every(period=period, start=start, body=body):
            since = "" if start is None else rf"\textbf{{ from }}{expression(start)}"
            return [(rf"\textbf{{every }}{expression(period)}{since}\textbf{{:}}", None), *_indent(_block(body))]
        case nodes.Stop():
            return [(r"\textbf{stop}", None)]
        case nodes.Return(value=value):
            return [(rf"\textbf{{return }}{expression(value)}", None)]


def _if(statement: nodes.If, opening: str) -> list[Line]:
    lines: list[Line] = [(rf"{opening}{expression(statement.condition)}\textbf{{:}}", None), *_indent(_block(statement.then))]
    match statement.otherwise:
        case ():
            return lines
        case (nodes.If() as other,):
            return lines + _if(other, r"\textbf{else if }")
        case _:
            return [*lines, (r"\textbf{else:}", None), *_indent(_block(statement.otherwise))]


def _group(value: nodes.Expression | tuple[nodes.Expression, ...]) -> str:
    if not isinstance(value, tuple):
        return expression(value)
    parts = ", ".join(expression(v) for v in value)
    return parts if len(value) == 1 else rf"\left({parts}\right)"


# --- expressions --------------------------------------------------------------------------------------------------------------


def _at(node: nodes.Expression, least: int) -> str:
    text, precedence = _print(node)
    return rf"\left({text}\right)" if precedence < least else text


def _print(node: nodes.Expression) -> tuple[str, int]:
    match node:
        case nodes.Number(value=value):
            return _number(value)
        case nodes.Boolean(value=truth):
            return rf"\text{{{str(truth).lower()}}}", _ATOM
        case nodes.Text(value=text):
            return rf"\text{{``{_escape(text)}''}}", _ATOM
        case nodes.Nothing():
            return r"\text{none}", _ATOM
        case nodes.Name(id=identity):
            return name(identity), _ATOM
        case nodes.Unary(operator="-", operand=operand):
            return "-" + _at(operand, _MINUS), _MINUS
        case nodes.Unary(operator="not", operand=operand):
            return r"\neg " + _at(operand, _ATOM), _NOT
        case nodes.Unary(operand=operand):
            return _at(operand, _ATOM) + r"^{\top}", _FRACTION
        case nodes.Binary():
            return _binary(node)
        case nodes.Call():
            return _call(node.function, node.arguments)
        case nodes.Index(value=value, index=index):
            return rf"{_at(value, _ATOM)}\left[{expression(index)}\right]", _ATOM


def _number(value: int | float) -> tuple[str, int]:
    if isinstance(value, int) or value == 0 or 1e-2 <= value < 1e6:
        return (f"{value:g}" if value == int(value) else repr(value)), _ATOM
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    power = f"10^{{{int(exponent) + len(digits) - 1}}}"
    if digits == (1,):
        return power, _FRACTION
    fraction = "".join(map(str, digits[1:]))
    return rf"{digits[0]}{'.' + fraction if fraction else ''} \times {power}", _PRODUCT


def _binary(node: nodes.Binary) -> tuple[str, int]:
    left, right = node.left, node.right
    match node.operator:
        case "/":
            return rf"\frac{{{expression(left)}}}{{{expression(right)}}}", _FRACTION
        case "^":
            return f"{_at(left, _ATOM)}^{{{expression(right)}}}", _FRACTION
        case "*" | "@":
            second = _at(right, _FRACTION)
            return _at(left, _PRODUCT) + (r" \cdot " if second[0].isdigit() else r"\,") + second, _PRODUCT
        case "+" | "-" as sign:
            return f"{_at(left, _SUM)} {sign} {_at(right, _FRACTION if _is_minus(right) else _MOD)}", _SUM
        case "mod":
            return rf"{_at(left, _PRODUCT)} \bmod {_at(right, _FRACTION)}", _MOD
        case "and":
            return rf"{_at(left, _AND)} \wedge {_at(right, _NOT)}", _AND
        case "or":
            return rf"{_at(left, _OR)} \vee {_at(right, _AND)}", _OR
        case comparison:
            return f"{_at(left, _SUM)} {_COMPARISONS[comparison]} {_at(right, _SUM)}", _COMPARE


def _is_minus(node: nodes.Expression) -> bool:
    return isinstance(node, nodes.Unary) and node.operator == "-"


def _call(function: str, arguments: tuple[nodes.Expression, ...]) -> tuple[str, int]:
    one = nodes.Number(1)
    match function, arguments:
        case "sqrt", (x,):
            return rf"\sqrt{{{expression(x)}}}", _ATOM
        case "ema", (m, x, beta):
            old = nodes.Binary("*", beta, m)
            return _print(nodes.Binary("+", old, nodes.Binary("*", nodes.Binary("-", one, beta), x)))
        case "debias", (m, beta):
            return _print(nodes.Binary("/", m, nodes.Binary("-", one, nodes.Binary("^", beta, nodes.Name("t")))))
        case "lerp", (a, b, w):
            return _print(nodes.Binary("+", a, nodes.Binary("*", w, nodes.Binary("-", b, a))))
        case "where", (condition, a, b):
            rows = rf"{expression(a)} & \text{{if }} {expression(condition)} \\ {expression(b)} & \text{{otherwise}}"
            return rf"\begin{{cases}} {rows} \end{{cases}}", _CASES
        case "outer", (row, column):
            return rf"{_at(row, _PRODUCT)}\,{_at(column, _ATOM)}^{{\top}}", _PRODUCT
        case "normal", (_,):
            return r"\mathcal{N}(0, 1)", _ATOM
        case "uniform", (_,):
            return r"\mathcal{U}[0, 1)", _ATOM
        case "total", (x,):
            return r"\sum_{\mathrm{model}} " + _at(x, _PRODUCT), _MOD
        case "group_total", (x,):
            return r"\sum_{\mathrm{group}} " + _at(x, _PRODUCT), _MOD
    inside = ", ".join(expression(a) for a in arguments)
    if function in _FENCED:
        opening, closing = _FENCED[function]
        return opening + inside + closing, _ATOM
    if function in _ALONG:
        head, along = _ALONG[function]
        return rf"{head}_{{\mathrm{{{along}}}}}\left({inside}\right)", _FRACTION
    head = "\\" + function if function in _FUNCTIONS else rf"\operatorname{{{_escape(function)}}}"
    return rf"{head}\left({inside}\right)", _FRACTION
