"""What each rule of the grammar makes: nodes, from the parts that the rules inside it have made.

Mistakes that the grammar lets through (two `hyper:` sections, a default that is no constant) are noted as diagnostics here.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from lark import Token

from optc.dsl import literals, nodes
from optc.dsl.build_compositions import CompositionRules
from optc.dsl.lines import MAX_NESTING
from optc.dsl.names import SUBSCRIPT_DIGITS, fold
from optc.dsl.rules import Clause, place_of
from optc.dsl.source import Span

_UNARY: dict[str, nodes.UnaryOperator] = {"-": "-", "not": "not", "¬": "not"}
_BINARY: dict[str, nodes.BinaryOperator] = {
    "+": "+", "-": "-", "*": "*", "·": "*", "⊙": "*", "/": "/", "@": "@", "mod": "mod", "^": "^",
    "<": "<", "<=": "<=", "≤": "<=", ">": ">", ">=": ">=", "≥": ">=", "==": "==", "!=": "!=", "≠": "!=",
    "and": "and", "∧": "and", "or": "or", "∨": "or",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "".join(SUBSCRIPT_DIGITS.values()))
_NOT_YET_EXTENTS = ("axis", "chunk")


class Builder(CompositionRules):
    """One method per rule, `on_RULE(parts, span)`; diagnostics go to the list given."""

    def build(self, rule: str, parts: list[Any], span: Span) -> Any:
        """What a rule of the grammar makes of its parts: tokens, and what the rules inside have made."""
        return getattr(self, f"on_{rule}")(parts, span)

    def file(self, parts: list[Any], comments: tuple[nodes.Comment, ...]) -> nodes.File | None:
        """The whole file; None, with a diagnostic, where it is neither one optimizer nor a composition."""
        optimizers = [part for part in parts if isinstance(part, (nodes.Optimizer, nodes.Derived))]
        modifiers = tuple(part for part in parts if isinstance(part, nodes.Modifier))
        defines = tuple(part for part in parts if isinstance(part, nodes.Define))
        storages = tuple(part for part in parts if isinstance(part, nodes.Storage))
        schedules = tuple(part for part in parts if isinstance(part, (nodes.Schedule, nodes.Chain)))
        for other in optimizers[1:]:
            span = Span(other.span.start, other.span.start + len("optimizer"))
            self.report(
                "two-optimizers", f"`{other.name}` is a second optimizer in one file", span, "give each a file of its own"
            )
        if not (optimizers or modifiers or storages or schedules):
            if not self.diagnostics:
                place = defines[-1].span if defines else Span(0, 1)
                self.report(
                    "no-optimizer", "the file holds no `optimizer NAME:`", place, "add one; functions alone are no spec"
                )
            return None
        marks = tuple(sorted(self.marks, key=lambda mark: mark.span.start))
        span = Span(0, max(part.span.end for part in parts))
        optimizer = optimizers[0] if optimizers else None
        file: nodes.File
        if isinstance(optimizer, nodes.Optimizer):
            for what, others in (("modifier", modifiers), ("schedule", schedules)):
                for part in others:
                    hint = f"put it in a file of its own, or beside an `optimizer NAME = … + {part.name}`"
                    head = Span(part.span.start, part.span.start + len(what))
                    self.report(f"misplaced-{what}", f"a {what} beside an optimizer that is written out", head, hint)
            file = nodes.Spec(optimizer, defines, storages, comments, marks, span=span)
        else:
            file = nodes.Composition(optimizer, modifiers, defines, storages, schedules, comments, marks, span=span)
        self.check_depth(file)
        return file

    def check_depth(self, spec: nodes.File) -> None:
        """Later stages recurse over the spec; nothing in it may be deeper than `MAX_NESTING`."""
        pending: list[tuple[nodes.Node, int]] = [(spec, 0)]
        while pending:
            node, depth = pending.pop()
            if depth > MAX_NESTING:
                hint = "give names to parts of it"
                self.report("too-deep", f"this nests deeper than {MAX_NESTING} operations or blocks", node.span, hint)
                return
            for field in fields(node):
                value = getattr(node, field.name)
                parts = value if isinstance(value, tuple) else (value,)
                pending.extend((part, depth + 1) for part in parts if isinstance(part, nodes.Node))

    # --- sections -------------------------------------------------------------------------------------------------------------

    def on_bad(self, parts: list[Any], span: Span) -> Clause:
        return Clause("bad", None, span)

    def on_optimizer(self, parts: list[Any], span: Span) -> nodes.Optimizer:
        kinds = self.members(parts[1:], "optimizer")

        def every(kind: str) -> tuple[Any, ...]:
            return tuple(kinds.get(kind, []))

        def joined(kind: str) -> tuple[Any, ...]:
            return tuple(item for part in every(kind) for item in part)

        hypers = joined("hyper")
        return nodes.Optimizer(
            name=parts[0].value,
            **self.told(kinds),
            hypers=tuple(item for item in hypers if isinstance(item, nodes.Hyper)),
            requires=tuple(item for item in hypers if isinstance(item, nodes.Require)),
            states=joined("state"),
            defines=every("Define"),
            step=joined("step"),
            entries=every("Entry"),
            shape=next(iter(every("shape")), None),
            storing=joined("storing"),
            span=span,
        )

    def on_shape(self, parts: list[Any], span: Span) -> Clause:
        if parts[0].id not in ("matrix", "square"):
            hint = "write `shape: matrix` for θ seen as (first dimension, all others), `shape: square` for rows like columns"
            self.report("unknown-shape", f"there is no shape `{parts[0].id}`", parts[0].span, hint)
        self.mark("shape", span)
        return Clause("shape", parts[0].id, span)

    def on_optimizer_head(self, parts: list[Any], span: Span) -> Clause:
        self.mark("optimizer", span)
        return Clause("head", parts[0].id, span)

    def texts(self, kind: str, value: str, span: Span) -> Clause:
        self.mark(kind, span)
        return Clause(kind, value, span)

    def on_doc(self, parts: list[Any], span: Span) -> Clause:
        return self.texts("doc", literals.read_text(parts[0]), place_of(parts[0]))

    def on_cite(self, parts: list[Any], span: Span) -> Clause:
        token = parts[0]
        value = literals.read_text(token) if token.type == "STRING" else token.removeprefix("cite").strip()
        if not value:
            self.report("syntax", "`cite` without a reference", span, "write `cite arXiv:1711.05101`")
        return self.texts("cite", value, Span(span.start, place_of(token).start + len(token.rstrip())))

    def on_note(self, parts: list[Any], span: Span) -> Clause:
        return self.texts("note", literals.read_text(parts[0]), Span(span.start, place_of(parts[0]).end))

    def section(self, kind: str, parts: list[Any]) -> Clause:
        self.mark(kind, place_of(parts[0]))
        return Clause(kind, [part for part in parts[1:] if isinstance(part, nodes.Node)], place_of(parts[0]))

    def on_hypers(self, parts: list[Any], span: Span) -> Clause:
        return self.section("hyper", parts)

    def on_states(self, parts: list[Any], span: Span) -> Clause:
        return self.section("state", [parts[0], *parts[1]])

    def on_step(self, parts: list[Any], span: Span) -> Clause:
        return self.section("step", [parts[0], *parts[1]])

    def on_hyper(self, parts: list[Any], span: Span) -> nodes.Hyper:
        given = self.clauses(parts[2:])
        default = parts[1]
        if not isinstance(default, tuple):
            self.constant(default, "a default", texts=True)
        return nodes.Hyper(
            name=parts[0].id,
            default=default,
            outside=given.get("as"),
            shared="shared" in given,
            counts="counts" in given,
            domain=given.get("in"),
            text=given.get("text"),
            span=span,
        )

    def clauses(self, clauses: list[Clause]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for clause in clauses:
            if clause.kind in given:
                what = "text" if clause.kind == "text" else f"`{clause.kind}`"
                self.report("syntax", f"a second {what} in one declaration", clause.span)
            given[clause.kind] = clause.value
        return given

    def on_elements(self, parts: list[Any], span: Span) -> tuple[nodes.Element, ...]:
        return tuple(parts)

    def on_element(self, parts: list[Any], span: Span) -> nodes.Element:
        self.constant(parts[1], "a default", texts=True)
        return nodes.Element(parts[0].id, parts[1], span=span)

    def on_as(self, parts: list[Any], span: Span) -> Clause:
        return Clause("as", parts[0].id, span)

    def on_shared(self, parts: list[Any], span: Span) -> Clause:
        return Clause("shared", True, span)

    def on_counts(self, parts: list[Any], span: Span) -> Clause:
        return Clause("counts", True, span)

    def on_text(self, parts: list[Any], span: Span) -> Clause:
        return Clause("text", literals.read_text(parts[0]), span)

    def on_interval(self, parts: list[Any], span: Span) -> Clause:
        integer = isinstance(parts[0], Token) and parts[0].type == "INT"
        opening, low, high, closing = parts[1:] if integer else parts
        self.constant(low, "a bound")
        self.constant(high, "a bound")
        return Clause("in", nodes.Interval(low, high, opening == "[", closing == "]", integer, span=span), span)

    def on_choice(self, parts: list[Any], span: Span) -> Clause:
        return Clause("in", nodes.Choice(tuple(map(literals.read_text, parts)), span=span), span)

    def on_require(self, parts: list[Any], span: Span) -> nodes.Require:
        return nodes.Require(parts[0], literals.read_text(parts[1]), span=span)

    def on_state(self, parts: list[Any], span: Span) -> nodes.State:
        given = self.clauses(parts[2:])
        extent, period = given.get("per", (None, None))
        return nodes.State(parts[0].id, parts[1], given.get("as"), extent, period, span=span)

    def extent(self, name: nodes.Name) -> str:
        if name.id in _NOT_YET_EXTENTS:
            self.report("unsupported", f"`per {name.id}` is not part of this version of the language", name.span)
        return name.id

    def on_per(self, parts: list[Any], span: Span) -> Clause:
        return Clause("per", (self.extent(parts[0]), parts[1] if len(parts) > 1 else None), span)

    def on_state_body(self, parts: list[Any], span: Span) -> tuple[Any, ...]:
        return tuple(part for part in parts if isinstance(part, nodes.Node))

    def on_state_if(self, parts: list[Any], span: Span) -> nodes.StateIf:
        return nodes.StateIf(parts[0], parts[1], parts[2] if len(parts) > 2 else (), span=span)

    def on_else(self, parts: list[Any], span: Span) -> tuple[Any, ...]:
        self.mark("else", place_of(parts[0]))
        return parts[1] if isinstance(parts[1], tuple) else (parts[1],)

    on_state_else = on_else

    def on_define_head(self, parts: list[Any], span: Span) -> Clause:
        self.mark("define", span)
        return Clause("define_head", [part.id for part in parts], span)

    def on_define_value(self, parts: list[Any], span: Span) -> Any:
        return self.define(parts[0], (nodes.Return(parts[1], span=parts[1].span),), span)

    def on_define_block(self, parts: list[Any], span: Span) -> Any:
        return self.define(parts[0], parts[1], span)

    def define(self, head: Clause, body: tuple[Any, ...], span: Span) -> nodes.Define:
        name, *parameters = head.value
        return nodes.Define(name, tuple(parameters), body, span=span)

    def on_input(self, parts: list[Any], span: Span) -> nodes.Input:
        return nodes.Input(parts[0].id, self.extent(parts[1]), span=span)

    def on_entry_head(self, parts: list[Any], span: Span) -> Clause:
        self.mark("entry", span)
        return Clause("entry_head", parts, span)

    def on_entry(self, parts: list[Any], span: Span) -> nodes.Entry:
        name, *rest = parts[0].value
        every: int | None = None
        if rest and isinstance(rest[-1], Token):
            number = literals.read_number(rest.pop())
            if isinstance(number, int) and number >= 1:
                every = number
            else:
                self.report("syntax", "`every` of an entry takes a whole number of at least 1", parts[0].span)
        return nodes.Entry(name.id, tuple(rest), every, parts[1], span=span)

    # --- statements -----------------------------------------------------------------------------------------------------------

    def on_block(self, parts: list[Any], span: Span) -> tuple[Any, ...]:
        return tuple(part for part in parts if isinstance(part, nodes.Node))

    def on_targets(self, parts: list[Any], span: Span) -> tuple[Any, ...]:
        return tuple(parts)

    on_values = on_targets

    def on_assign(self, parts: list[Any], span: Span) -> nodes.Assign:
        return nodes.Assign(parts[0], parts[1], span=span)

    def on_write(self, parts: list[Any], span: Span) -> nodes.Write:
        return nodes.Write(parts[0], parts[1], span=span)

    def on_stop(self, parts: list[Any], span: Span) -> nodes.Stop:
        return nodes.Stop(span=span)

    def on_return(self, parts: list[Any], span: Span) -> nodes.Return:
        return nodes.Return(parts[0], span=span)

    def on_if(self, parts: list[Any], span: Span) -> nodes.If:
        return nodes.If(parts[0], parts[1], parts[2] if len(parts) > 2 else (), span=span)

    def on_every(self, parts: list[Any], span: Span) -> nodes.Every:
        return nodes.Every(parts[0], parts[1] if len(parts) > 2 else None, parts[-1], span=span)

    # --- expressions ----------------------------------------------------------------------------------------------------------

    def on_name(self, parts: list[Any], span: Span) -> nodes.Name:
        return nodes.Name(fold(str(parts[0])), span=span)

    def number(self, digits: str, span: Span) -> nodes.Number:
        try:
            return nodes.Number(literals.read_number(digits), span=span)
        except OverflowError:  # of a superscript; the scan has seen to the others
            self.report("number", "the number is too large", span)
            return nodes.Number(0, span=span)

    def on_number(self, parts: list[Any], span: Span) -> nodes.Number:
        return self.number(parts[0], span)

    def on_string(self, parts: list[Any], span: Span) -> nodes.Text:
        return nodes.Text(literals.read_text(parts[0]), span=span)

    def on_boolean(self, parts: list[Any], span: Span) -> nodes.Boolean:
        return nodes.Boolean(parts[0] == "true", span=span)

    def on_nothing(self, parts: list[Any], span: Span) -> nodes.Nothing:
        return nodes.Nothing(span=span)

    def on_unary(self, parts: list[Any], span: Span) -> nodes.Unary:
        return nodes.Unary(_UNARY[parts[0]], parts[1], span=span)

    def on_transpose(self, parts: list[Any], span: Span) -> nodes.Unary:
        return nodes.Unary("'", parts[0], span=span)

    def on_binary(self, parts: list[Any], span: Span) -> nodes.Binary:
        return nodes.Binary(_BINARY[parts[1]], parts[0], parts[2], span=span)

    def on_superscript(self, parts: list[Any], span: Span) -> nodes.Binary:
        token = parts[1]
        place = place_of(token)
        digits = token.translate(_SUPERSCRIPTS)
        exponent: nodes.Expression = self.number(digits.removeprefix("⁻"), place)
        if digits.startswith("⁻"):
            exponent = nodes.Unary("-", exponent, span=place)
        return nodes.Binary("^", parts[0], exponent, span=span)

    def on_index(self, parts: list[Any], span: Span) -> nodes.Index:
        return nodes.Index(parts[0], parts[1], span=span)

    def on_call(self, parts: list[Any], span: Span) -> nodes.Call:
        return nodes.Call(parts[0].id, tuple(parts[1:]), span=span)

    def on_root(self, parts: list[Any], span: Span) -> nodes.Call:
        return nodes.Call("sqrt", tuple(parts), span=span)

    def on_abs(self, parts: list[Any], span: Span) -> nodes.Call:
        return nodes.Call("abs", tuple(parts), span=span)

    def on_norm(self, parts: list[Any], span: Span) -> nodes.Call:
        return nodes.Call("norm", tuple(parts), span=span)

    def on_floor(self, parts: list[Any], span: Span) -> nodes.Call:
        return nodes.Call("floor", tuple(parts), span=span)

    def on_dot(self, parts: list[Any], span: Span) -> nodes.Call:
        return nodes.Call("dot", tuple(parts), span=span)
