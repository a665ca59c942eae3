"""`optc build`: from specs to modules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optc.cli import output, specs
from optc.dsl.errors import OptcError, Several
from optc.dsl.source import Source

if TYPE_CHECKING:
    from optc.compiler.compose.expand import Expanded
    from optc.compiler.pipeline import Compilation

GENERATED = specs.SPECS.parent / "generated"


@dataclass(frozen=True, slots=True)
class Changes:
    """What is added to every spec that is named."""

    modifiers: tuple[str, ...]
    storing: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.modifiers or self.storing)


@click.command(short_help="Compile specs to Python modules.")
@click.argument("spec", nargs=-1, type=specs.SPEC)
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="The folder for the modules; made if missing.")
@specs.with_option
@specs.store_option
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 and list what is missing, stale or edited by hand.")
@click.option("--force", is_flag=True, help="Build even what is up to date.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: errors, written, unchanged (with --check: errors, stale).")
def build(
    spec: tuple[str, ...],
    folder: Path | None,
    modifiers: tuple[str, ...],
    storing: tuple[str, ...],
    check: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Compile each SPEC to a module with a torch.optim.Optimizer in it; without SPEC, all shipped ones.

    A module is written only where it would change, and none is where one of the specs has a mistake.

    \b
    Examples:
      optc build my.opt -o mypackage/  mypackage/my.py, and an __init__.py if there is none
      optc build *.opt -o optimizers/
      optc build adamw --with cautious -o .   cautious_adamw.py, with a class CautiousAdamW
      optc build lion --store m=dynamic8 -o .   its state in eight bits: a class Lion_m_dynamic8
      optc build                       the shipped specs, into optc.generated
      optc build --check               for CI: are the generated files up to date?
    """
    target = folder or GENERATED
    if target.exists() and not target.is_dir():
        raise OptcError(f"{target}: is a file; -o takes a folder")
    changed = Changes(modifiers, storing)
    if changed and not spec:
        raise click.UsageError("--with and --store change the specs that are named: optc build adamw --with cautious -o .")
    sources = specs.sources(spec)
    if folder is None and (changed or any(not specs.is_shipped(source) for source in sources)):
        raise click.UsageError("say where modules of your own go: -o FOLDER (-o . for this one)")
    if check:
        return _check(_written_out(sources, changed), target, as_json)

    from optc.compiler.write import write_index, write_module

    pending = sources if changed or force else [source for source in sources if not _untouched(source, target)]
    compiled = _compile(_written_out(pending, changed), _names(sources, changed), target, force)
    written: list[Path] = []
    for compilation in compiled.values():
        path = target / f"{compilation.module_name}.py"
        if force or not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != compilation.module:
            written.append(write_module(compilation, target))
    if target.resolve() != Path.cwd().resolve():  # the current folder is no package of ours
        write_index(target)
    if as_json:
        output.say_json(written=[str(path) for path in written], unchanged=len(sources) - len(written))
        return 0
    for path in written:
        output.say(f"{output.good('wrote')} {path}")
    if len(written) < len(sources):
        output.say(output.dim(f"{len(sources) - len(written)} unchanged in {target}"))
    return 0


def _untouched(source: Source, target: Path) -> bool:
    """Whether a spec's module is up to date; found out without parsing. Never so of compositions, which other files make up."""
    from optc.compiler.module import file_module_name
    from optc.compiler.write import up_to_date

    name = file_module_name(source.name)
    return name is not None and up_to_date(target / f"{name}.py", source)


def _names(sources: list[Source], changed: Changes) -> dict[str, str]:
    """The files of modules by their names, as far as these come from the files. Raises OptcError where two are the same."""
    from optc.compiler.module import file_module_name

    by_module: dict[str, str] = {}
    for source in sources if not changed else ():
        name = file_module_name(source.name)
        if name is not None:
            _no_clash(by_module, name, source.name)
    return by_module


def _written_out(sources: list[Source], changed: Changes) -> list[Expanded]:
    """The specs with compositions written out: their texts are what modules are made of. Mistakes are raised together."""
    found: list[Expanded] = []
    errors: list[OptcError] = []
    for source in sources:
        try:
            found.append(specs.spec_of(source, changed.modifiers, changed.storing))
        except OptcError as error:
            errors.append(error)
    if errors:
        raise Several(errors)
    return found


def _check(expanded: list[Expanded], target: Path, as_json: bool) -> int:
    from optc.compiler.module import file_module_name, module_name
    from optc.compiler.write import stale
    from optc.dsl.check import check

    named = [(file_module_name(e.file) or module_name(check(e.spec, e.source).name), e.source) for e in expanded]
    problems = stale(target, named)
    if as_json:
        output.say_json(stale=problems)
    elif problems:
        for problem in problems:
            output.note(problem)
        output.note("optc build brings them up to date")
    else:
        output.say(f"{output.good('up to date')}  {len(named)} module{'s' if len(named) != 1 else ''} in {target}")
    return 1 if problems else 0


def _compile(expanded: list[Expanded], by_module: dict[str, str], target: Path, force: bool) -> dict[str, Compilation]:
    """What has to be written, by module name: everything is compiled before anything is written."""
    from optc.compiler.module import file_module_name
    from optc.compiler.write import up_to_date

    wanted: dict[str, Expanded] = {}
    for one in expanded:
        name = file_module_name(one.file)
        if name is None or force or not up_to_date(target / f"{name}.py", one.source):
            wanted[one.file or one.source.name] = one
    compiled: dict[str, Compilation] = {}
    errors: list[OptcError] = []
    with output.progress(list(wanted), "compiling") as names:
        for name in names:
            from optc.compiler.pipeline import compile_expanded

            try:
                compilation = compile_expanded(wanted[name])
            except OptcError as error:
                errors.append(error)
                continue
            if file_module_name(name) is None:
                _no_clash(by_module, compilation.module_name, name)
            compiled[compilation.module_name] = compilation
    if errors:
        raise Several(errors)
    return compiled


def _no_clash(by_module: dict[str, str], name: str, file: str) -> None:
    if name in by_module:
        raise OptcError(f"{by_module[name]} and {file} would both become {name}.py; build them into two folders")
    by_module[name] = file
