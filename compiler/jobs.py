"""What a build has to do: one job for each module, whether an optimizer or a schedule comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optc.compiler.compose.expand import expand, with_modifiers
from optc.compiler.module_names import file_module_name, module_name
from optc.compiler.schedules import written_out
from optc.dsl.check import check
from optc.dsl.source import Source


@dataclass(frozen=True, slots=True)
class Job:
    """A module in the making: its name, the text that it is made of, the file that was read, and how to make it."""

    module: str
    source: Source
    file: str
    emit: Callable[[], str]

    @property
    def named_by_file(self) -> bool:
        """Whether the file gives the module its name."""
        return file_module_name(self.file) == self.module


def jobs_of(source: Source, modifiers: Sequence[str] = (), storing: Sequence[str] = ()) -> list[Job]:
    """The modules of a file: one of its optimizer, with modifiers and storages, or one of each schedule.

    Raises SpecError for what cannot be read or combined.
    """
    if not modifiers and not storing:
        schedules = written_out(source)
        if schedules:
            return [Job(one.module, one.source, source.name, one.emit) for one in schedules]
    expanded = with_modifiers(source, modifiers, storing) if modifiers or storing else expand(source)

    def emit() -> str:
        from optc.compiler.pipeline import compile_expanded  # brings SymPy: finding out that nothing changed must not

        return compile_expanded(expanded).module

    name = file_module_name(expanded.file) or module_name(check(expanded.spec, expanded.source).name)
    return [Job(name, expanded.source, expanded.file, emit)]
