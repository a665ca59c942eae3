"""`optc list`: what is shipped."""

from __future__ import annotations

import click

from optc.cli import output, specs


@click.command("list", short_help="List the shipped optimizers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: errors, optimizers.")
def list_specs(as_json: bool) -> None:
    """List the shipped optimizers: name, bytes of state per parameter (float32, default hypers), what they do, their file.

    \b
    Examples:
      optc list
      optc list --json | jq '.optimizers[].name'
    """
    from optc.dsl.program import Scalar
    from optc.dsl.semantics import evaluate_static

    entries = []
    for name, path in specs.shipped().items():
        program = specs.program(specs.source(name))
        hypers: dict[str, Scalar] = {n: d for h in program.hypers for n, d in zip(h.names, h.defaults, strict=True)}
        kept = [s for s in program.states if not s.host and evaluate_static(s.exists, hypers, ndim=2, numel=1 << 20)]
        entries.append(
            {
                "name": name,
                "class": program.name,
                "text": program.text,
                "cites": list(program.cites),
                "state_bytes": 4 * len(kept),
                "file": path.relative_to(specs.SPECS.parent).as_posix(),
            }
        )
    if as_json:
        output.say_json(optimizers=entries)
        return
    rows = [
        [output.good(str(e["name"])), str(e["state_bytes"]), output.dim(str(e["file"])), str(e["text"] or "")] for e in entries
    ]
    output.say(output.table(["name", "state B", "file", "what it does"], rows, right=[1]))
