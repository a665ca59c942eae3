"""The stages of a schedule: text -> schedule (chains as one) -> checked -> module."""

from __future__ import annotations

from dataclasses import dataclass

from optc.compiler.compose.expand import schedules_of
from optc.compiler.module_names import file_module_name, module_name
from optc.compiler.schedule_module import class_name, emit_schedule
from optc.dsl import nodes
from optc.dsl.check_schedule import check_schedule
from optc.dsl.parse import parse_file
from optc.dsl.program import Schedule
from optc.dsl.show import show
from optc.dsl.source import Source


@dataclass(frozen=True, slots=True)
class WrittenOut:
    """A schedule that needs no other, as a text of its own; `module` is the name of its Python module."""

    schedule: Schedule
    source: Source
    module: str

    @property
    def class_name(self) -> str:
        """The name of its class."""
        return class_name(self.schedule.name)

    def emit(self) -> str:
        """The text of its module."""
        return emit_schedule(self.schedule, self.module)


def written_out(source: Source) -> list[WrittenOut]:
    """The schedules that a file declares; none of a file that holds an optimizer. Raises SpecError with every mistake found."""
    file = parse_file(source)
    if not isinstance(file, nodes.Composition) or file.optimizer is not None:
        return []
    found = []
    for written, node in zip(file.schedules, schedules_of(source, file), strict=True):
        alone = written is node and len(file.schedules) == 1 and not file.modifiers and not file.storages
        own = source if alone else _shown(node)
        module = (file_module_name(source.name) if len(file.schedules) == 1 else None) or module_name(class_name(node.name))
        found.append(WrittenOut(_checked(own), own, module))
    return found


def _shown(node: nodes.Schedule) -> Source:
    return Source(f"<written out {node.name}>", show(nodes.Composition(schedules=(node,)), mathematical=True))


def _checked(source: Source) -> Schedule:
    file = parse_file(source)
    if not isinstance(file, nodes.Composition):
        raise RuntimeError("a schedule that is written out is one")
    (node,) = file.schedules
    if not isinstance(node, nodes.Schedule):
        raise RuntimeError("a schedule that is written out is no chain")
    return check_schedule(node, source, file.defines)
