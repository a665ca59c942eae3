"""A turn: who of a plan takes part, sorted by history. It lasts until others take part or a history changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from optc.runtime import rows
from optc.runtime import state as states
from optc.runtime.batches import Batch, Binding, Launch
from optc.runtime.columns import Column
from optc.runtime.hypers import Values
from optc.runtime.rows import Outcome, Row
from optc.runtime.schema import Procedure, Schema


@dataclass(frozen=True, slots=True)
class Turn:
    """`places` in the plan, ascending; everything else is parallel to them, or counts in them.

    `single` are the places of parameters with one element, `staged` the parameters that are not dense, with dense copies.
    """

    places: Sequence[int]
    parameters: Sequence[Tensor]
    thetas: Sequence[Tensor]
    single: Sequence[int]
    staged: Sequence[tuple[Tensor, Tensor]]
    rows: Sequence[Row]
    batches: Sequence[Batch]

    def evaluate(self, procedure: Procedure, values: Values) -> tuple[list[Outcome], list[tuple[Launch, Outcome]]]:
        """Runs the host program for each row; what to launch."""
        outcomes = [row.evaluate(procedure, values) for row in self.rows]
        return outcomes, [launch for batch in self.batches for launch in batch.ready(outcomes)]

    def resolved(self, column: Column) -> Column:
        """Autograd may hand out the conjugate's imaginary part, a view that negates what lies in memory.

        With more than one element such a view has gaps, and it has been copied; with one it passes for contiguous.
        """
        negated = {place for place in self.single if column[place].is_neg()}
        return [x.resolve_neg() if place in negated else x for place, x in enumerate(column)] if negated else column


@dataclass(frozen=True, slots=True)
class Cast:
    """All parameters of a plan, and what this process has `here` of them: themselves, where no other has a part.

    `thetas` are dense forms of that: the same memory, or copies where it is not dense.
    """

    parameters: Sequence[Tensor]
    here: Sequence[Tensor]
    thetas: Sequence[Tensor]
    copied: frozenset[int]

    def turn(
        self,
        places: Sequence[int],
        schema: Schema,
        procedure: Procedure,
        bindings: Sequence[Binding],
        edits: states.Edits,
        created: Mapping[int, frozenset[str]],
    ) -> Turn:
        """The turn of the parameters at `places`; `created[place]` names the states that it got just now.

        Raises nothing of its own. What it writes to the state can be undone.
        """
        parameters = [self.parameters[place] for place in places]
        thetas = [self.thetas[place] for place in places]
        new = [created.get(place, frozenset()) for place in places]
        sorted_ = rows.sort(schema, procedure, edits, parameters, new) if bindings else []
        row_of = {places[member]: number for number, row in enumerate(sorted_) for member in row.members}
        column = {place: index for index, place in enumerate(places)}
        batches = []
        for binding in bindings:
            parts: dict[int, list[int]] = {}
            for member, position in enumerate(binding.positions):
                if position in row_of:
                    parts.setdefault(row_of[position], []).append(member)
            if parts:
                batches.append(Batch(binding, parts, column))
        single = [index for index, theta in enumerate(thetas) if theta.numel() == 1]
        staged = [(self.here[place], self.thetas[place]) for place in places if place in self.copied]
        return Turn(places, parameters, thetas, single, staged, sorted_, batches)
