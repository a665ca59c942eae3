"""`optc.compile`: a spec to a class at once, without files.

The generated text is the same as `optc build` writes; it is executed as a module of its own, `optc.compiled.<name>_<digest>`,
registered with `linecache` so that tracebacks, `inspect` and Triton find its source. Equal specs give the same class. What is
executed is the compiler's own output, in which a spec's names and texts are data only.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from optc.compiler.compose.expand import Expanded, expand, expand_derived, with_modifiers
from optc.compiler.compose.library import Library, named, shipped
from optc.compiler.digest import compiler_digest, text_digest
from optc.compiler.pipeline import compile_expanded
from optc.compiler.schedules import WrittenOut, written_out
from optc.dsl import nodes
from optc.dsl.errors import OptcError
from optc.dsl.parse import parse_file
from optc.dsl.read import decode, read
from optc.dsl.source import Source

if TYPE_CHECKING:
    from optc.runtime.optimizer import Optimizer
    from optc.runtime.schedules import Schedule

_PACKAGE = "optc.compiled"
_classes: dict[str, type[Optimizer]] = {}
_schedules: dict[str, type[Schedule]] = {}


def compile_class(spec: str | Path, modifiers: Sequence[str] = (), storing: Mapping[str, str] | None = None) -> type[Optimizer]:
    """The optimizer class of a spec, with modifiers added to it and its states stored otherwise.

    `spec` is a path to an `.opt` file, the name of a shipped spec (`adamw`), or the text itself (anything with a newline);
    a modifier is written as in a composition: `cautious`, `lookahead(k = 6)`; a storage as behind `storing`, by state.
    Raises `SpecError` with every mistake in the spec and for what cannot be combined, `OptcError` where a file cannot be read.
    """
    if isinstance(modifiers, str):
        modifiers = (modifiers,)
    source = _source(spec)
    clauses = [f"{state}: {storage}" for state, storage in (storing or {}).items()]
    return _class_of(with_modifiers(source, modifiers, clauses) if modifiers or clauses else expand(source))


@cache
def compile_composition(text: str) -> type[Optimizer]:
    """The optimizer class of a composition of shipped parts, as behind `optimizer NAME =`: `AdamW8bit + lookahead(k = 6)`.

    Raises SpecError for what cannot be read or combined.
    """
    source = Source("<composition>", f"optimizer Composed = {text}\n")
    derived = parse_file(source).optimizer
    if not isinstance(derived, nodes.Derived):
        raise OptcError(f"{text!r}: is no composition, such as `AdamW + lookahead(k = 6)`")
    return _class_of(expand_derived(replace(derived, name=_called(derived)), source, Library()))


def compile_source(source: Source) -> type[Optimizer]:
    """The optimizer class of a spec that has been read; mistakes are told with the file's name, by SpecError."""
    return _class_of(expand(source))


def _called(derived: nodes.Derived) -> str:
    """The name of a composition that has none: CautiousAdamW, AdamW_betas_without_amsgrad, AdamW_m_dynamic8."""
    base = derived.base
    words = ["".join(word.capitalize() for term in derived.modifiers for word in term.name.split("_")) + base.name]
    if not derived.modifiers:
        words += [argument.name for argument in base.arguments if argument.name is not None]
        words += ["without", *(name.id for name in base.without)] if base.without else []
    return "_".join((*words, *(word for kept in derived.storing for word in (kept.state, kept.storage))))


def _class_of(expanded: Expanded) -> type[Optimizer]:
    key = text_digest(expanded.source.text + compiler_digest())
    if key not in _classes:
        _classes[key] = _load(expanded, key)
    return _classes[key]


def compile_schedule(spec: str | Path) -> type[Schedule]:
    """The class of a schedule: a path to an `.opt` file, its text (anything with a newline), or the links of a chain.

    Raises `SpecError` with every mistake, `OptcError` where the file cannot be read or holds not exactly one schedule.
    """
    if isinstance(spec, str) and "\n" not in spec and not spec.endswith(".opt"):
        spec = f"schedule chain = {spec}\n"
    source = _source(spec)
    found = written_out(source)
    if len(found) != 1:
        named_ = ", ".join(one.schedule.name for one in found)
        raise OptcError(f"{source.name}: holds {f'the schedules {named_}' if found else 'no schedule'}; one is needed")
    return schedule_class(found[0])


def schedule_class(one: WrittenOut) -> type[Schedule]:
    """The class of a schedule that is written out; equal ones have one class."""
    key = text_digest(one.source.text + compiler_digest())
    if key not in _schedules:
        _schedules[key] = getattr(load_module(f"{one.module}_{key[:16]}", one.emit()), one.class_name)
    return _schedules[key]


def _source(spec: str | Path) -> Source:
    if isinstance(spec, str) and ("\n" in spec or not spec.strip()):
        return decode(spec.encode("utf-8", "surrogatepass"), "<text>")  # the same checks and line ends as for a file
    known = shipped().get(spec) if isinstance(spec, str) and not Path(spec).exists() else None
    return read(spec) if known is None else named(known)


def _load(expanded: Expanded, key: str) -> type[Optimizer]:
    compilation = compile_expanded(expanded)
    module = load_module(f"{compilation.module_name}_{key[:16]}", compilation.module)
    loaded: type[Optimizer] = getattr(module, compilation.program.name)
    loaded.spec_text = expanded.source.text
    return loaded


def load_module(name: str, text: str) -> ModuleType:
    """A generated module's text as a module, `optc.compiled.<name>`."""
    module = ModuleType(f"{_PACKAGE}.{name}")
    filename = f"<optc {name}>"
    module.__file__ = filename
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    sys.modules.setdefault(_PACKAGE, ModuleType(_PACKAGE))
    sys.modules[module.__name__] = module
    exec(compile(text, filename, "exec"), module.__dict__)
    return module
