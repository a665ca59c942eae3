"""Where a mistake that shows only in a composed spec belongs in the file that was read."""

from __future__ import annotations

from dataclasses import replace

from optc.dsl import nodes
from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.program import Storage
from optc.dsl.source import Source, Span
from optc.dsl.storages import resolve

_OF_STORAGES = ("unsigned-storage", "no-sign")


def check_storages(spec: nodes.Spec, text: Source, written: tuple[nodes.Kept, ...], otherwise: Span, source: Source) -> None:
    """Raises SpecError, at a place in `source`, for a storage that a state of a composed spec cannot have.

    Whether a state may be negative, or is a sign, depends on the whole step, so it is seen in the composed spec only, whose
    text is `text`; but the storage is asked for by one of the clauses `written` in `source`, or by a base whose name stands at
    `otherwise`.
    """
    if not any(_keeps_some(kept, spec) for kept in spec.optimizer.storing):
        return
    try:
        check(spec, text)
    except SpecError as error:
        if all(found.code not in _OF_STORAGES for found in error.diagnostics):
            return  # it is found again by whoever checks the result, and belongs there
        states = {kept.span: kept.state for kept in spec.optimizer.storing}
        places = {kept.state: kept.span for kept in written}
        found = [replace(d, span=places.get(states.get(d.span, ""), otherwise)) for d in error.diagnostics]
        raise SpecError(source, found) from None


def _keeps_some(kept: nodes.Kept, spec: nodes.Spec) -> bool:
    """Whether a storage has no negative numbers, or signs alone."""
    storage = resolve(kept, spec.storages) if kept.state != "theta" else None
    return isinstance(storage, Storage) and (not storage.signed or storage.bits == 1)
