"""The canonical text of a spec, in ASCII or in mathematical spelling: the inverse of `parse`.

`parse(show(spec)) == spec` in both spellings, and a shown text shows itself again. Sections stand in a fixed order; a comment
that has a line of its own stays before what it preceded, one behind a line stays behind it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from optc.dsl import literals, nodes
from optc.dsl.names import width
from optc.dsl.parse import parse_file
from optc.dsl.rows import Row, aligned, with_comments
from optc.dsl.show_expressions import ExpressionPrinter
from optc.dsl.source import NOWHERE, Source, Span

Part: TypeAlias = nodes.Optimizer | nodes.Modifier | nodes.Derived | nodes.Storage | nodes.Schedule | nodes.Chain

_MAX_LINE = 100
"""Columns of a composition, or of a modifier's hypers in brackets, before they take several lines."""

_RAW_CITE = re.compile(r'(?!["#])\S(?:[^\n#]|(?<! )#)*(?<!\s)')


def show(file: nodes.File, mathematical: bool = False) -> str:
    """The canonical text of a file, ending in a newline."""
    printer = _Printer(mathematical, file.marks)
    blocks = [printer.define(define, 0) for define in file.defines]
    blocks += [printer.storage(storage) for storage in file.storages]
    if isinstance(file, nodes.Composition):
        blocks += [printer.modifier(modifier) for modifier in file.modifiers]
        blocks += [printer.schedule(schedule) for schedule in file.schedules]
    if isinstance(file.optimizer, nodes.Derived):
        blocks.append(printer.derived(file.optimizer))
    elif file.optimizer is not None:
        blocks.append(printer.optimizer(file.optimizer))
    rows: list[Row | None] = []
    for block in blocks:
        rows += [None, *block] if rows else block
    return "".join(line + "\n" for line in with_comments(rows, file.comments))


def show_expression(expression: nodes.Expression, mathematical: bool = False) -> str:
    """The canonical text of an expression."""
    return _Printer(mathematical).expression(expression)


def format_text(source: Source, mathematical: bool = False) -> str:
    """A spec's text in canonical form. Raises SpecError where it does not parse."""
    return show(parse_file(source), mathematical)


class _Printer(ExpressionPrinter):
    """Rows and expressions in one spelling."""

    def __init__(self, mathematical: bool, marks: Sequence[nodes.Mark] = ()) -> None:
        super().__init__(mathematical)
        self.marks = marks

    # --- places ---------------------------------------------------------------------------------------------------------------

    def head_span(self, word: str, within: Span, last: bool = False) -> Span:
        """The place of the head of a section or block that starts inside `within`."""
        found = [mark.span for mark in self.marks if mark.word == word and within.start <= mark.span.start < within.end]
        return found[-1 if last else 0] if found else NOWHERE

    # --- sections -------------------------------------------------------------------------------------------------------------

    def optimizer(self, optimizer: nodes.Optimizer) -> list[Row]:
        rows = [Row(0, (f"optimizer {optimizer.name}:",), self.head_span("optimizer", optimizer.span))]
        rows += [*self.texts(optimizer), *self.declarations(optimizer)]
        rows += self.section("step", self.block(optimizer.step, 2), optimizer.span)
        for entry in optimizer.entries:
            rows += self.entry(entry)
        return rows

    def texts(self, part: Part) -> list[Row]:
        def rows(kind: str, texts: Sequence[str]) -> list[Row]:
            found = [m.span for m in self.marks if m.word == kind and part.span.start <= m.span.start < part.span.end]
            spans = found if len(found) == len(texts) else [NOWHERE] * len(texts)
            return [Row(1, (text,), span) for text, span in zip(texts, spans, strict=True)]

        doc = rows("doc", [] if part.text is None else [literals.write_text(part.text)])
        cites = rows("cite", [f"cite {_reference(text)}" for text in part.cites])
        shape = getattr(part, "shape", None)
        notes = rows("note", [f"note {literals.write_text(text)}" for text in part.notes])
        return [*doc, *cites, *notes, *rows("shape", [] if shape is None else [f"shape: {shape}"])]

    def section(self, word: str, rows: list[Row], within: Span) -> list[Row]:
        return [Row(1, (f"{word}:",), self.head_span(word, within)), *rows] if rows else []

    def declarations(self, part: nodes.Optimizer | nodes.Modifier | nodes.Schedule, hypers: bool = True) -> list[Row]:
        declared = aligned([self.hyper(hyper) for hyper in part.hypers]) if hypers else []
        rows = self.section("hyper", declared + [self.require(require) for require in part.requires], part.span)
        if not isinstance(part, nodes.Schedule):
            rows += self.section("state", self.states(part.states, 2), part.span)
        if isinstance(part, nodes.Optimizer) and part.storing:
            rows.append(Row(1, (self.storing(part.storing),), self.head_span("storing", part.span)))
        for define in part.defines:
            rows += self.define(define, 1)
        return rows

    def modifier(self, modifier: nodes.Modifier) -> list[Row]:
        """Hypers stand in brackets where they are short: without texts and requirements, on one line."""
        cells = (" ".join(filter(None, self.hyper(hyper).cells)) for hyper in modifier.hypers)
        head = f"modifier {modifier.name}({', '.join(cells)}):"
        plain = not modifier.requires and all(hyper.text is None for hyper in modifier.hypers)
        brackets = bool(modifier.hypers) and plain and width(head) <= _MAX_LINE
        place = self.head_span("modifier", modifier.span)
        rows = [Row(0, (head if brackets else f"modifier {modifier.name}:",), place)]
        rows += [*self.texts(modifier), *self.declarations(modifier, hypers=not brackets)]
        for hook in modifier.hooks:
            rows += self.hook(hook)
        return rows

    def hook(self, hook: nodes.Hook | nodes.Rewrite) -> list[Row]:
        if isinstance(hook, nodes.Rewrite):
            arrow = "→" if self.mathematical else "->"
            rule = f"{self.expression(hook.pattern)} {arrow} {self.expression(hook.value)}"
            return [Row(1, (f"rewrite ({', '.join(map(self.name, hook.variables))}): {rule}",), hook.span)]
        otherwise = "" if hook.otherwise is None else f" else {self.name(hook.otherwise)}"
        alias = "" if hook.alias is None else f" as {self.name(hook.alias)}"
        head = Row(1, (f"{hook.stage} {self.name(hook.point)}{otherwise}{alias}:",), self.head_span("hook", hook.span))
        return [head, *self.block(hook.body, 2)]

    def schedule(self, schedule: nodes.Schedule | nodes.Chain) -> list[Row]:
        if isinstance(schedule, nodes.Chain):
            return self.chain(schedule)
        rows = [Row(0, (f"schedule {schedule.name}:",), self.head_span("schedule", schedule.span))]
        rows += [*self.texts(schedule), *self.declarations(schedule)]
        for value in schedule.values:
            head = Row(1, (f"{value.target}:",), self.head_span("scheduled", value.span))
            rows += [head, *self.block(value.body, 2)]
        return rows

    def chain(self, chain: nodes.Chain) -> list[Row]:
        place, rest = self.head_span("chain", chain.span), self.texts(chain)
        head, end = f"schedule {chain.name} =", ":" if rest else ""
        links = [*map(self.link, chain.links)]
        line = f"{head} {', '.join(links)}{end}"
        if width(line) <= _MAX_LINE or len(links) == 1:
            return [Row(0, (line,), place), *rest]
        lines = [f"{link}," for link in links[1:-1]] + [f"{links[-1]}){end}"]
        return [Row(0, (f"{head} ({links[0]},",), place), *(Row(2, (text,), NOWHERE) for text in lines), *rest]

    def link(self, link: nodes.Link) -> str:
        return self.term(link.term) + ("" if link.steps is None else f" for {link.steps}")

    def derived(self, derived: nodes.Derived) -> list[Row]:
        end = ":" * (derived.text is not None or bool(derived.cites or derived.notes))
        end = (f" {self.storing(derived.storing)}" if derived.storing else "") + end
        base, *others = map(self.term, (derived.base, *derived.modifiers))
        head = f"optimizer {derived.name} ="
        place = self.head_span("derived", derived.span)
        line = " + ".join((f"{head} {base}", *others)) + end
        if width(line) <= _MAX_LINE or not others:
            return [Row(0, (line,), place), *self.texts(derived)]
        lines = [f"+ {other}" for other in others]
        lines[-1] += ")" + end
        return [Row(0, (f"{head} ({base}",), place), *(Row(2, (text,), NOWHERE) for text in lines), *self.texts(derived)]

    def storing(self, clause: Sequence[nodes.Kept]) -> str:
        return "storing " + ", ".join(map(self.kept, clause))

    def kept(self, kept: nodes.Kept) -> str:
        arguments = f"({', '.join(map(self.argument, kept.arguments))})" if kept.arguments else ""
        return f"{self.name(kept.state)}: {kept.storage}{arguments}"

    def storage(self, storage: nodes.Storage) -> list[Row]:
        place = self.head_span("storage", storage.span)
        rows = [Row(0, (f"storage {storage.name}:",), place), *self.texts(storage)]
        rows += aligned([Row(1, (f"{s.name}", f"= {self.value(s)}"), s.span) for s in storage.settings])
        rows += self.section("state", self.states(storage.states, 2), storage.span)
        if storage.storing:
            rows.append(Row(1, (self.storing(storage.storing),), self.head_span("storing", storage.span)))
        for define in storage.defines:
            rows += self.define(define, 1)
        if storage.decode is not None:
            rows.append(Row(1, (f"decode: {self.expression(storage.decode)}",), self.head_span("decode", storage.span)))
        if storage.encode:
            head = Row(1, (f"encode {self.name(storage.value)}:",), self.head_span("encode", storage.span))
            rows += [head, *self.block(storage.encode, 2)]
        return rows

    def term(self, term: nodes.Term) -> str:
        arguments = f"({', '.join(map(self.argument, term.arguments))})" if term.arguments else ""
        without = f" without {', '.join(self.name(name.id) for name in term.without)}" if term.without else ""
        return term.name + arguments + without

    def argument(self, argument: nodes.Argument) -> str:
        return self.value(argument) if argument.name is None else f"{self.name(argument.name)} = {self.value(argument)}"

    def value(self, argument: nodes.Argument) -> str:
        value = argument.value
        return f"({', '.join(map(self.expression, value))})" if isinstance(value, tuple) else self.expression(value)

    def hyper(self, hyper: nodes.Hyper) -> Row:
        if isinstance(hyper.default, tuple):
            elements = (f"{self.name(element.name)} = {self.expression(element.default)}" for element in hyper.default)
            default = f"({', '.join(elements)})"
        else:
            default = self.expression(hyper.default)
        default += f" as {hyper.outside}" if hyper.outside is not None else ""
        default += " shared" if hyper.shared else ""
        default += " counts" if hyper.counts else ""
        domain = "" if hyper.domain is None else f"in {self.domain(hyper.domain)}"
        text = "" if hyper.text is None else literals.write_text(hyper.text)
        return Row(2, (self.name(hyper.name), f"= {default}", domain, text), hyper.span)

    def domain(self, domain: nodes.Domain) -> str:
        if isinstance(domain, nodes.Choice):
            return "{" + ", ".join(map(literals.write_text, domain.values)) + "}"
        bounds = f"{self.expression(domain.low)}, {self.expression(domain.high)}"
        return f"{'int ' * domain.integer}{'[' if domain.low_closed else '('}{bounds}{']' if domain.high_closed else ')'}"

    def require(self, require: nodes.Require) -> Row:
        return Row(2, (f"require {self.expression(require.condition)}, {literals.write_text(require.message)}",), require.span)

    def states(self, items: Sequence[nodes.StateItem], depth: int) -> list[Row]:
        rows: list[Row] = []
        run: list[Row] = []  # neighbouring states, whose names are aligned
        for item in items:
            if isinstance(item, nodes.State):
                run.append(self.state(item, depth))
                continue
            rows += aligned(run)
            run = []
            rows += self.conditional(item, depth)
        return rows + aligned(run)

    def state(self, state: nodes.State, depth: int) -> Row:
        extent = f" per {state.extent}" if state.extent is not None else ""
        extent += f"({self.expression(state.period)})" if state.period is not None else ""
        outside = f" as {state.outside}" if state.outside is not None else ""
        return Row(depth, (self.name(state.name), f"= {self.expression(state.initial)}{extent}{outside}"), state.span)

    def define(self, define: nodes.Define, depth: int) -> list[Row]:
        head = f"define {self.name(define.name)}({', '.join(map(self.name, define.parameters))})"
        if len(define.body) == 1 and isinstance(define.body[0], nodes.Return):
            return [Row(depth, (f"{head} = {self.expression(define.body[0].value)}",), define.span)]
        return [Row(depth, (head + ":",), self.head_span("define", define.span)), *self.block(define.body, depth + 1)]

    def entry(self, entry: nodes.Entry) -> list[Row]:
        inputs = ", ".join(f"{self.name(item.name)} per {item.extent}" for item in entry.inputs)
        every = f" every {entry.every}" if entry.every is not None else ""
        head = Row(1, (f"entry {entry.name}({inputs}){every}:",), self.head_span("entry", entry.span))
        return [head, *self.block(entry.body, 2)]

    # --- statements -----------------------------------------------------------------------------------------------------------

    def block(self, statements: Sequence[nodes.Statement], depth: int) -> list[Row]:
        rows: list[Row] = []
        for statement in statements:
            if isinstance(statement, nodes.If):
                rows += self.conditional(statement, depth)
            elif isinstance(statement, nodes.Every):
                start = "" if statement.start is None else f" from {self.expression(statement.start)}"
                last = statement.period if statement.start is None else statement.start
                place = _head_of(statement, last)
                rows.append(Row(depth, (f"every {self.expression(statement.period)}{start}:",), place))
                rows += self.block(statement.body, depth + 1)
            else:
                rows.append(Row(depth, (self.simple(statement),), statement.span))
        return rows

    def conditional(self, item: nodes.If | nodes.StateIf, depth: int) -> list[Row]:
        """`if … else if … else …`, of statements or of states."""
        rows: list[Row] = []
        word, place = "if", _head_of(item, item.condition)
        while True:
            rows.append(Row(depth, (f"{word} {self.expression(item.condition)}:",), place))
            rows += self.body(item.then, depth + 1)
            otherwise = item.otherwise
            if not otherwise:
                return rows
            after = item.then[-1].span.end
            here = self.head_span("else", Span(after, otherwise[0].span.start + 1))
            inner = otherwise[0]
            if len(otherwise) == 1 and isinstance(inner, (nodes.If, nodes.StateIf)):
                item, word = inner, "else if"
                place = NOWHERE if here == NOWHERE else here.to(inner.condition.span)
                continue
            return [*rows, Row(depth, ("else:",), here), *self.body(otherwise, depth + 1)]

    def body(self, items: Sequence[nodes.Statement | nodes.StateItem], depth: int) -> list[Row]:
        states = [item for item in items if isinstance(item, (nodes.State, nodes.StateIf))]
        statements = [item for item in items if not isinstance(item, (nodes.State, nodes.StateIf))]
        return self.states(states, depth) + self.block(statements, depth)

    def simple(self, statement: nodes.Assign | nodes.Write | nodes.Stop | nodes.Return) -> str:
        if isinstance(statement, nodes.Stop):
            return "stop"
        if isinstance(statement, nodes.Return):
            return f"return {self.expression(statement.value)}"
        sign = "=" if isinstance(statement, nodes.Assign) else "←" if self.mathematical else "<-"
        targets = [self.name(target.id) for target in statement.targets]
        left = targets[0] if len(targets) == 1 else f"({', '.join(targets)})"
        if isinstance(statement.value, tuple):
            return f"{left} {sign} ({', '.join(map(self.expression, statement.value))})"
        return f"{left} {sign} {self.expression(statement.value)}"


def _head_of(node: nodes.Node, last: nodes.Node) -> Span:
    return node.span if node.span == NOWHERE else Span(node.span.start, last.span.end)


def _reference(text: str) -> str:
    """A reference as it stands where that reads back; as a text otherwise."""
    plain = _RAW_CITE.fullmatch(text) and text.isprintable() and literals.write_text(text)[1:-1] == text
    return text if plain else literals.write_text(text)
