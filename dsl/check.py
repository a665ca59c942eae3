"""Spec -> Program: names resolved, functions written out, every value typed. All errors of the file come at once."""

from __future__ import annotations

from optc.dsl import calls, nodes
from optc.dsl.check_blocks import ProcedureChecker
from optc.dsl.check_hypers import check_hypers
from optc.dsl.check_states import StateChecker
from optc.dsl.check_storing import check_one_bit, check_signs, check_storing, pair_of, with_dithers
from optc.dsl.errors import SpecError
from optc.dsl.groups import by_group, of_one_kind
from optc.dsl.infer import Inference
from optc.dsl.names import PYTHON_KEYWORDS
from optc.dsl.picking import not_with_rows
from optc.dsl.program import Let, Procedure, Program, Statement
from optc.dsl.scope import DEFINE, ENTRY, FILE_DEFINE, STEP, Context, Env, walk
from optc.dsl.source import Source, Span

POINTS = ("m_hat", "v_hat", "u")
"""Names that modifiers act on, beside g and θ: numerator of the direction, second moment as used, direction."""

_METHODS = frozenset(
    {
        "step",
        "zero_grad",
        "add_param_group",
        "state",
        "state_dict",
        "load_state_dict",
        "param_groups",
        "defaults",
        "profile_hook_step",
        "register_step_pre_hook",
        "register_step_post_hook",
        "register_state_dict_pre_hook",
        "register_state_dict_post_hook",
        "register_load_state_dict_pre_hook",
        "register_load_state_dict_post_hook",
        "OptimizerPreHook",
        "OptimizerPostHook",
        "backend",
        "forget",
        "gradient_norm",
        "init_state",
        "last_step_skipped",
        "refuses_release",
        "schema",
        "spec_text",
    }
)
"""Attributes of every optimizer: no entry may hide them, nor the private ones, which start with `_`."""


def check(spec: nodes.Spec, source: Source) -> Program:
    """The checked program.

    Raises SpecError with every mistake of the spec; what follows from a mistake is not reported again.
    """
    on_device: frozenset[str] = frozenset()
    while True:  # each turn finds further states that depend on what is in tensors, until none is left
        checker = _Checker(spec.optimizer, source, on_device)
        program = checker.check(spec)
        if checker.found_on_device <= on_device:
            return checker.result(program)
        on_device |= checker.found_on_device


def points(program: Program) -> tuple[str, ...]:
    """The names of `POINTS` that the step does not bind: modifiers on them cannot be added."""
    bound: set[str] = set()
    stack: list[Statement] = list(program.procedures[0].body)
    while stack:
        statement = stack.pop()
        if isinstance(statement, Let):
            bound.add(statement.target.name)
        stack.extend((*getattr(statement, "then", ()), *getattr(statement, "otherwise", ())))
    return tuple(p for p in POINTS if p not in bound)


def _names(spec: nodes.Spec) -> set[str]:
    """Every name of a value in the text, declared or read."""
    found: set[str] = set()
    for node in walk(spec):
        if isinstance(node, nodes.Name):
            found.add(node.id)
        elif isinstance(node, (nodes.Hyper, nodes.Element, nodes.State, nodes.Input)):
            found.add(node.name)
        elif isinstance(node, nodes.Define):
            found.update(node.parameters)
    return found


class _Checker:
    def __init__(self, node: nodes.Optimizer, source: Source, on_device: frozenset[str]) -> None:
        self._node = node
        self._context = Context(source, on_device=on_device)
        self._inference = Inference(self._context)
        self.found_on_device = self._context.found_on_device

    def result(self, program: Program) -> Program:
        """The program; raises SpecError if there was a mistake."""
        if self._context.diagnostics:
            raise SpecError(self._context.source, self._context.diagnostics)
        return program

    def check(self, spec: nodes.Spec) -> Program:
        node, context = self._node, self._context
        context.by_group = by_group(spec)
        context.taken = _names(spec)
        context.declared = frozenset(n.name for n in walk(node.states) if isinstance(n, nodes.State))
        hypers = check_hypers(context, node.hypers)
        calls.declare(self._inference, spec.defines, FILE_DEFINE)
        calls.declare(self._inference, node.defines, DEFINE)
        calls.check_bodies(self._inference)
        requires = self._inference.requires(node.requires)
        states = StateChecker(self._inference).check(node.states)
        states = check_storing(context, spec, states)
        procedures = (with_dithers(self._inference, spec, states, self._step()), *self._entries())
        not_with_rows(context)
        of_one_kind(context, spec)
        context.check_used()
        if node.name in PYTHON_KEYWORDS:
            context.error("python-keyword", f"`{node.name}` cannot be a name in Python", node.span, "choose another name")
        program = Program(
            node.name,
            node.text,
            node.cites,
            node.notes,
            hypers,
            requires,
            states,
            procedures,
            context.source,
            node.shape,
            None if context.pick is None else context.pick[0],
            pair_of(spec),
            context.by_group,
        )
        check_signs(context, spec, program)
        check_one_bit(context, spec, program)
        return program

    def _step(self) -> Procedure:
        context = self._context
        checker = ProcedureChecker(self._inference)
        body = checker.check(self._node.step, Env(STEP))
        if not checker.theta_writes:
            context.error("missing-theta-write", "`step` does not write θ", self._heading(), "end it with `theta <- …`")
        for span in checker.theta_writes[1:]:
            line, _ = context.source.position(checker.theta_writes[0].start)
            message = f"θ is written already, in line {line}"
            context.error("repeated-theta-write", message, span, "name the parts with `=`, and write θ once")
        return Procedure("step", (), None, body)

    def _heading(self) -> Span:
        """Where to point for what is missing: the last statement of the step, else the optimizer's name."""
        if self._node.step:
            return self._node.step[-1].span
        return self._context.head(self._node, "optimizer")

    def _entries(self) -> list[Procedure]:
        context = self._context
        procedures: list[Procedure] = []
        for node in self._node.entries:
            head = context.head(node, "entry")
            earlier = node.name in {p.name for p in procedures}
            if node.name in _METHODS or node.name in PYTHON_KEYWORDS or node.name.startswith("_") or earlier:
                taken = "of an earlier entry" if earlier else "taken in PyTorch's optimizers"
                context.error("reserved-name", f"the name `{node.name}` is {taken}", head, "choose another name")
            if node.every is not None and node.every < 1:
                context.error(
                    "every-period", "the period of `every` must be a whole number, at least 1", head, "write `every 10`"
                )
            inputs = self._inputs(node)
            self._context.used -= set(inputs)
            checker = ProcedureChecker(self._inference)
            body = checker.check(node.body, Env(ENTRY, inputs=frozenset(inputs)))
            for name, span in inputs.items():
                if name not in context.used:
                    context.error("unused-input", f"nothing reads the input `{name}`", span, "take it out, or use it")
            if not checker.writes:
                context.error(
                    "entry-without-write", f"`{node.name}` writes no state", head, "an entry is there to write states"
                )
            procedures.append(Procedure(node.name, tuple(inputs), node.every, body))
        return procedures

    def _inputs(self, node: nodes.Entry) -> dict[str, Span]:
        context = self._context
        inputs: dict[str, Span] = {}
        for item in node.inputs:
            span = context.head(item)
            if context.reserved(item.name, span):
                continue
            if item.name in PYTHON_KEYWORDS:
                context.error("python-keyword", f"`{item.name}` cannot be a name in Python", span, "choose another name")
            elif item.name in inputs or item.name in context.hypers or item.name in context.states:
                context.error("duplicate-name", f"`{item.name}` is declared already", span, "choose another name")
            elif item.extent != "elem":
                message = f"inputs `per {item.extent}` are not part of this version of the language"
                context.error("unsupported", message, item.span, f"write `{item.name} per elem`")
                context.unknown.add(item.name)  # what reads it says nothing more
            else:
                inputs[item.name] = span
        return inputs
