"""What a pass measures, as a binary tree over leaves of one extent that a program builds a piece of (`gpu.pushed`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optc.compiler.backends.triton.lines import COMBINED, NEUTRAL
from optc.compiler.layout import Call, laid_out
from optc.dsl.kinds import Extent

if TYPE_CHECKING:
    from optc.compiler.backends.triton.sweep import Sweep


@dataclass(frozen=True, slots=True)
class Tree:
    """The tree of one measure: the name of its stack, the name of what a leaf keeps by lane, the dtype of its nodes."""

    measure: str
    stack: str
    total: str
    operation: str
    extent: Extent

    @property
    def kind(self) -> str:
        """Nodes of vectors have the arithmetic dtype, single numbers are float64."""
        return "real" if self.extent is Extent.COL else "tl.float64"

    def begun(self, shape: str) -> str:
        """The stack of no leaves."""
        return f"{self.stack} = tl.full({shape}, {NEUTRAL[self.operation]}, {self.kind})"

    def pushed(self, index: str, indent: int, axes: int = 1) -> str:
        """The stack with the leaf that has just been measured; a block of two `axes` is one number, or one per column."""
        leaf = self.total
        for _ in range(1 if self.extent is Extent.COL else axes):
            leaf = f"gpu.{COMBINED[self.operation]}_of({leaf})"
        if self.kind != "real":
            leaf += f".to({self.kind})"
        return laid_out(Call(f"{self.stack} = gpu.pushed", (self.stack, leaf, index, f'"{COMBINED[self.operation]}"')), indent)

    def folded(self) -> str:
        """The node over all leaves."""
        return f'gpu.folded({self.stack}, "{COMBINED[self.operation]}")'


def trees_of(one: Sweep, extent: Extent) -> list[Tree]:
    """Those of the measures of an extent."""
    return [
        Tree(measure, one.stack[measure], total, operation, extent)
        for total, (measure, operation) in zip(one.totals, one.sweep.measures, strict=True)
        if one.extents.get(measure, Extent.TENSOR) is extent
    ]
