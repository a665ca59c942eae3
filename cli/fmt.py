"""`optc fmt`: one canonical spelling."""

from __future__ import annotations

import difflib
from pathlib import Path

import click

from optc.cli import output, specs
from optc.dsl.errors import OptcError


@click.command(short_help="Rewrite specs in their canonical form.")
@click.argument("spec", nargs=-1, required=True, type=specs.SPEC)
@click.option("--math/--ascii", default=None, help="β₁, √v or beta1, sqrt(v); if not given, either may stay.")
@click.option("--check", is_flag=True, help="Change nothing; show what would change, exit with 1 if anything would.")
@click.option("--stdout", is_flag=True, help="Print the result and leave the file as it is.")
def fmt(spec: tuple[str, ...], math: bool | None, check: bool, stdout: bool) -> int:
    """Rewrite each SPEC in its canonical form; the program stays the same, comments included.

    \b
    Examples:
      optc fmt my.opt                  ASCII: beta1, sqrt(v), <-
      optc fmt --math my.opt           as in the paper: β₁, √v, ←
      optc fmt --check *.opt           for CI
      optc fmt --math --stdout adamw   only look at it
      cat my.opt | optc fmt - > neat.opt
    """
    from optc.compiler.write import write_text
    from optc.dsl.show import format_text

    status = 0
    for argument in spec:
        try:
            source = specs.source(argument)
            forms = [format_text(source, mathematical) for mathematical in ((False, True) if math is None else (math,))]
        except OptcError as error:
            output.show_error(error)
            status = 1
            continue
        text = source.text if source.text in forms else forms[0]
        if stdout or argument == "-":
            output.say(text.removesuffix("\n"))
        elif text == source.text:
            output.note(f"{output.good('unchanged')} {source.name}")
        elif check:
            status = 1
            lines = difflib.unified_diff(source.text.splitlines(), text.splitlines(), source.name, "formatted", lineterm="")
            output.say("\n".join(lines))
        elif not Path(argument).is_file():
            raise OptcError(f"{argument}: is a shipped spec; use --stdout, or give its path")
        else:
            write_text(Path(argument).resolve(), text)  # through a link, not over it
            output.note(f"{output.good('formatted')} {source.name}")
    return status
