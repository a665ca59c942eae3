"""Seeded faults: the mistakes that people make when they write an optimizer down, as changes of a checked program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from optc.dsl.program import Program
from optc.dsl.source import Span
from tests.faults import in_expressions, in_lines, in_order, in_reductions
from tests.faults.rewrite import BlockRule, Rule, programs

Kind: TypeAlias = Callable[[Program], Iterator[tuple[Program, Span]]]
"""A kind of fault: from a program to all programs with one such fault, and the place of it."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A program with one fault of one kind, on one line of its spec."""

    spec: str
    kind: str
    line: int
    program: Program


def _everywhere(rule: Rule = in_lines.nothing, block_rule: BlockRule = in_lines.no_block) -> Kind:
    return lambda program: programs(program, rule, block_rule)


KINDS: dict[str, Kind] = {
    "two betas swapped": in_lines.swap_tuple,
    "one beta for another": in_lines.wrong_beta,
    "weights of an average swapped": _everywhere(in_expressions.swap_weights),
    "sum for an average": _everywhere(in_expressions.sum_for_average),
    "average for a sum": _everywhere(in_expressions.average_for_sum),
    "bias correction dropped": _everywhere(in_expressions.drop_debias),
    "t one too small": _everywhere(in_expressions.shift_t(-1)),
    "t one too large": _everywhere(in_expressions.shift_t(1)),
    "square root dropped": _everywhere(in_expressions.drop("sqrt")),
    "square dropped": _everywhere(in_expressions.drop_square),
    "sign() dropped": _everywhere(in_expressions.drop("sign")),
    "abs() dropped": _everywhere(in_expressions.drop("abs")),
    "eps moved": _everywhere(in_expressions.move_eps),
    "eps dropped": _everywhere(in_expressions.drop_eps),
    "min for max": _everywhere(in_expressions.swap("min", "max")),
    "clamp on one side only": _everywhere(in_expressions.clamp_one_side),
    "plus for minus": _everywhere(in_expressions.swap("add", "sub")),
    "last term dropped": _everywhere(in_expressions.drop_last_term),
    "scalar factor dropped": _everywhere(in_expressions.drop_host_factor),
    "ratio upside down": _everywhere(in_expressions.invert),
    "constant off": _everywhere(in_expressions.wrong_constant),
    "comparison negated": _everywhere(in_expressions.flip_comparison),
    "where() swapped": _everywhere(in_expressions.swap_where),
    "branch dropped": _everywhere(block_rule=in_lines.drop_branch),
    "branch always taken": _everywhere(block_rule=in_lines.always_branch),
    "stop dropped": _everywhere(block_rule=in_lines.drop_stop),
    "state not written": _everywhere(block_rule=in_lines.forget_write),
    "old state for new": _everywhere(block_rule=in_lines.late_write),
    "new state for old": _everywhere(block_rule=in_lines.early_write),
    "θ written too early": _everywhere(block_rule=in_lines.theta_before),
    "wrong initial state": in_lines.wrong_initial,
    "coupled for decoupled decay": in_lines.coupled_decay,
    "decoupled for coupled decay": in_lines.decoupled_decay,
    "norm of another tensor": _everywhere(in_reductions.other_tensor),
    "mean for sum": _everywhere(in_expressions.swap("sum", "mean")),
    "smallest for largest": _everywhere(in_expressions.swap("largest", "smallest")),
    "columns for rows": _everywhere(in_reductions.other_direction),
    "whole tensor for rows": _everywhere(in_reductions.whole_tensor),
    "rows of another view": in_reductions.other_shape,
    "total dropped": _everywhere(in_reductions.drop_total),
    "number of a tensor for the model's": in_reductions.own_number,
    "statistic of the step before": in_reductions.previous_statistic,
    "guard dropped": _everywhere(in_reductions.drop_guard),
    "value from before a line": _everywhere(block_rule=in_order.value_before),
    "change forgotten": _everywhere(block_rule=in_order.forget_change),
    "stop moved": _everywhere(block_rule=in_order.stop_moved),
    "modifier in another stage": in_order.other_stage,
}
"""Every kind of fault by name."""


def mutants(spec: str, program: Program, most: int | None = None) -> Iterator[Mutant]:
    """The faulty versions of a program, at most `most` of a kind, no two alike and none like the original."""
    seen = {_content(program)}
    for kind, make in KINDS.items():
        count = 0
        for faulty, span in make(program):
            content = _content(faulty)
            if content in seen:
                continue
            seen.add(content)
            yield Mutant(spec, kind, program.source.position(span.start)[0], faulty)
            count += 1
            if count == most:
                break


def _content(program: Program) -> tuple[object, ...]:
    return program.states, program.procedures, program.seen
