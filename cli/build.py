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
    from optc.compiler.jobs import Job

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
    """Compile each SPEC to a module with a torch.optim.Optimizer or a schedule in it; without SPEC, all shipped ones.

    A module is written only where it would change, and none is where one of the specs has a mistake.

    \b
    Examples:
      optc build my.opt -o mypackage/  mypackage/my.py, and an __init__.py if there is none
      optc build *.opt -o optimizers/
      optc build my_schedule.opt -o .  a schedule: a class to call, and to make torch schedulers of
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
        return _check(_jobs(sources, changed), folder, as_json)

    from optc.compiler.write import write_index, write_module

    pending = sources if changed or force else [source for source in sources if not _untouched(source, folder)]
    jobs = _jobs(pending, changed)
    _no_clashes(sources, jobs, changed)
    written: list[Path] = []
    for job, text in _emit([job for job in jobs if force or not _up_to_date(job, folder)]):
        path = _target(job.file, folder) / f"{job.module}.py"
        if force or not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            written.append(write_module(job.module, text, path.parent))
    for place in {_target(source.name, folder): None for source in sources}:
        if place.resolve() != Path.cwd().resolve():  # the current folder is no package of ours
            write_index(place)
    if as_json:
        output.say_json(written=[str(path) for path in written], unchanged=len(sources) - len(written))
        return 0
    for path in written:
        output.say(f"{output.good('wrote')} {path}")
    if len(written) < len(sources):
        output.say(output.dim(f"{len(sources) - len(written)} unchanged in {target}"))
    return 0


def _target(file: str, folder: Path | None) -> Path:
    """The folder of a module: the one that is named, or that of what is shipped."""
    if folder is not None:
        return folder
    return GENERATED / "schedules" if (specs.SPECS.parent / file).parent == specs.SPECS / "schedules" else GENERATED


def _untouched(source: Source, folder: Path | None) -> bool:
    """Whether a spec's module is up to date; found out without parsing. Never so of compositions, which other files make up."""
    from optc.compiler.module_names import file_module_name
    from optc.compiler.write import up_to_date

    name = file_module_name(source.name)
    return name is not None and up_to_date(_target(source.name, folder) / f"{name}.py", source)


def _up_to_date(job: Job, folder: Path | None) -> bool:
    from optc.compiler.write import up_to_date

    return job.named_by_file and up_to_date(_target(job.file, folder) / f"{job.module}.py", job.source)


def _jobs(sources: list[Source], changed: Changes) -> list[Job]:
    """What is to be built, compositions and chains written out. Mistakes are raised together."""
    from optc.compiler.jobs import jobs_of

    found: list[Job] = []
    errors: list[OptcError] = []
    for source in sources:
        try:
            found += jobs_of(source, changed.modifiers, changed.storing)
        except OptcError as error:
            errors.append(error)
    if errors:
        raise Several(errors)
    return found


def _check(jobs: list[Job], folder: Path | None, as_json: bool) -> int:
    from optc.compiler.write import stale

    places: dict[Path, list[Job]] = {}
    for job in jobs:
        places.setdefault(_target(job.file, folder), []).append(job)
    problems = [problem for place, own in places.items() for problem in stale(place, [(job.module, job.source) for job in own])]
    if as_json:
        output.say_json(stale=problems)
    elif problems:
        for problem in problems:
            output.note(problem)
        output.note("optc build brings them up to date")
    else:
        output.say(f"{output.good('up to date')}  {len(jobs)} module{'s' if len(jobs) != 1 else ''} in {folder or GENERATED}")
    return 1 if problems else 0


def _emit(jobs: list[Job]) -> list[tuple[Job, str]]:
    """The texts of modules: everything is compiled before anything is written."""
    compiled: list[tuple[Job, str]] = []
    errors: list[OptcError] = []
    with output.progress([job.module for job in jobs], "compiling") as names:
        for job, _ in zip(jobs, names, strict=True):
            try:
                compiled.append((job, job.emit()))
            except OptcError as error:
                errors.append(error)
    if errors:
        raise Several(errors)
    return compiled


def _no_clashes(sources: list[Source], jobs: list[Job], changed: Changes) -> None:
    """Raises OptcError where two files would become one module."""
    from optc.compiler.module_names import file_module_name

    by_module: dict[str, str] = {}
    for source in sources if not changed else ():
        name = file_module_name(source.name)
        if name is not None:
            _no_clash(by_module, name, source.name)
    for job in jobs:
        if by_module.get(job.module) != job.file:
            _no_clash(by_module, job.module, job.file or job.source.name)


def _no_clash(by_module: dict[str, str], name: str, file: str) -> None:
    if name in by_module:
        raise OptcError(f"{by_module[name]} and {file} would both become {name}.py; build them into two folders")
    by_module[name] = file
