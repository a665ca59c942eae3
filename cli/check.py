"""`optc check`: is a spec right?"""

from __future__ import annotations

import click

from optc.cli import output, specs
from optc.compiler.compose.library import named
from optc.dsl.errors import OptcError
from optc.dsl.source import Source


def _name(source: Source) -> str:
    """The class of a spec, or the modifiers, storages and schedules of a file without one, after all their checks."""
    from optc.compiler.compose.expand import check_others
    from optc.dsl import nodes
    from optc.dsl.parse import parse_file

    file = parse_file(source)
    if isinstance(file, nodes.Spec) or file.optimizer is not None:
        return specs.program(source).name
    check_others(file, source)
    found = (("modifier", file.modifiers), ("storage", file.storages), ("schedule", file.schedules))
    return "; ".join(f"{what} {', '.join(part.name for part in parts)}" for what, parts in found if parts)


@click.command(short_help="Say whether specs are right, with every mistake at once.")
@click.argument("spec", nargs=-1, type=specs.SPEC)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: errors, checked (file and class of every right spec).")
def check(spec: tuple[str, ...], as_json: bool) -> int:
    """Say whether each SPEC is right; without SPEC, all shipped ones.

    Of a modifier, its form is checked; whether it fits an optimizer is seen where it is added to one. Schedules are checked
    in full, and what a chain of them names is looked up.
    Every mistake of a file is reported at once, as file:line:column, with the line, a caret and what to do instead.

    \b
    Examples:
      optc check my.opt
      optc check *.opt --json
      optc check my_schedule.opt       ok  my_schedule.opt: schedule my_schedule
      cat my.opt | optc check -
    """
    found: list[OptcError] = []
    checked: list[dict[str, str]] = []
    for argument in spec or [path for _, path in specs.all_shipped()]:
        try:
            source = specs.source(argument) if isinstance(argument, str) else named(argument)
            name = _name(source)
        except OptcError as error:
            found.append(error)
            if not as_json:
                output.show_error(error)
        else:
            checked.append({"file": source.name, "class": name})
            if spec and not as_json:
                output.say(f"{output.good('ok')}  {source.name}: {name}")
    if as_json:
        output.say_json(found, checked=checked)
    elif not spec and not found:
        output.say(f"{output.good('ok')}  {len(checked)} shipped specs")
    return 1 if found else 0
