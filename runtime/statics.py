"""What of the hypers selects a plan's kernels and states. All others may be new in every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from optc.runtime.hypers import Facts, Values, holds
from optc.runtime.schema import Condition, Schema


@dataclass(frozen=True, slots=True)
class Statics:
    """What selects variants, and which states there are: conditions on hypers for parameters of some facts, and choices."""

    conditions: Sequence[Condition]
    facts: Sequence[Facts]
    choices: Sequence[str]
    read: Sequence[str]

    @staticmethod
    def of_schema(schema: Schema, parameters: Sequence[Tensor]) -> Statics:
        """Those of a schema, for a plan's parameters."""
        conditions: list[Condition] = [condition for _, condition in schema.flags]
        conditions += [state.exists for state in schema.states if state.exists is not None]
        known = {Facts()}
        if any(not set(Facts._fields).isdisjoint(condition.arguments) for condition in conditions):
            known = {Facts.of(p) for p in parameters}
        choices = [name for hyper in schema.hypers if hyper.kind == "choice" for name in hyper.names]
        choices += [] if schema.pick is None else [schema.pick]
        read = {name for condition in conditions for name in condition.arguments} - set(Facts._fields)
        return Statics(conditions, sorted(known), choices, sorted({*read, *choices}))

    def agree(self, values: Values, others: Values) -> bool:
        """Whether all hypers that matter here are the same; a schedule changes others in every step."""
        return all(values[name] == others[name] for name in self.read)

    def of(self, values: Values) -> object:
        """Something that differs whenever a variant or the presence of a state does."""
        held = [holds(condition, values, facts) for facts in self.facts for condition in self.conditions]
        return [values[name] for name in self.choices], held
