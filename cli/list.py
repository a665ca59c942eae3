"""`optc list`: what is shipped."""

from __future__ import annotations

from typing import Any

import click

from optc.cli import output, specs


@click.command("list", short_help="List the shipped optimizers, modifiers, schedules and storages.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: errors, optimizers, modifiers, schedules, storages.")
def list_specs(as_json: bool) -> None:
    """List the shipped optimizers: name, bytes of state per parameter (float32, default hypers), what they do, their file;
    then the modifiers that can be added to them (optc explain adamw --with cautious): name, stages, what they do;
    then the schedules of their learning rates (optc plot cosine, optc explain adamw --with cosine): name, the hypers that
    they give, what they do;
    then the storages of their states (optc explain adamw --store m=dynamic8): name, bytes per element, what they do.

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
                "state_bytes": sum(4 if s.storage is None else s.storage.bytes for s in kept),
                "file": path.relative_to(specs.SPECS.parent).as_posix(),
            }
        )
    if as_json:
        output.say_json(optimizers=entries, modifiers=_modifiers(), schedules=_schedules(), storages=_storages())
        return
    rows = [
        [output.good(str(e["name"])), f"{e['state_bytes']:.4g}", output.dim(str(e["file"])), str(e["text"] or "")]
        for e in entries
    ]
    output.say(output.table(["name", "state B", "file", "what it does"], rows, right=[1]))
    modifiers = [
        [output.good(str(m["name"])), ", ".join(m["stages"]), output.dim(str(m["file"])), str(m["text"] or "")]
        for m in _modifiers()
    ]
    output.say()
    output.say(output.table(["modifier", "stage", "file", "what it does"], modifiers))
    schedules = [[output.good(str(s["name"])), ", ".join(s["gives"]), str(s["text"] or "")] for s in _schedules()]
    output.say()
    output.say(output.table(["schedule", "gives", "what it does"], schedules))
    storages = [
        [output.good(str(s["name"])), "" if s["bytes"] is None else f"{s['bytes']:.4g}", str(s["text"] or "")]
        for s in _storages()
    ]
    output.say()
    output.say(output.table(["storage", "bytes", "what it does"], storages, right=[1]))


def _storages() -> list[dict[str, Any]]:
    """The shipped storages: name, bytes per element (None where they are not one number), text and references."""
    from optc.dsl import nodes
    from optc.dsl.program import Storage
    from optc.dsl.storages import CASTS, resolve, shipped

    known = shipped()
    found: list[dict[str, Any]] = []
    for name in (*CASTS, *known):
        storage = resolve(nodes.Kept("x", name), ())
        text, cites = (known[name].text, known[name].cites) if name in known else (f"rounded to {CASTS[name]}", ())
        if name in ("bf16", "linear8"):
            text = f"{(text or '').removesuffix('.')}; `{name}(stochastic)`: up or down at random"
        size = storage.bytes if isinstance(storage, Storage) else None
        found.append({"name": name, "bytes": size, "text": text, "cites": list(cites)})
    return found


def _modifiers() -> list[dict[str, Any]]:
    """The shipped modifiers: name, stages, text, references and file."""
    from optc.compiler.compose.library import named, parts_of
    from optc.dsl import nodes

    found: list[dict[str, Any]] = []
    for name, path in specs.shipped_modifiers().items():
        modifier = parts_of(named(path))[name].node
        if isinstance(modifier, nodes.Modifier):
            stages = dict.fromkeys(h.stage if isinstance(h, nodes.Hook) else "rewrite" for h in modifier.hooks)
            found.append(
                {
                    "name": name,
                    "stages": list(stages),
                    "text": modifier.text,
                    "cites": list(modifier.cites),
                    "file": path.relative_to(specs.SPECS.parent).as_posix(),
                }
            )
    return found


def _schedules() -> list[dict[str, Any]]:
    """The shipped schedules: name, the hypers that they give, text, references and file."""
    from optc.compiler.compose.library import named, parts_of
    from optc.dsl import nodes

    found: list[dict[str, Any]] = []
    for name, path in specs.shipped_schedules().items():
        schedule = parts_of(named(path))[name].node
        if isinstance(schedule, nodes.Schedule):
            found.append(
                {
                    "name": name,
                    "gives": [value.target for value in schedule.values],
                    "text": schedule.text,
                    "cites": list(schedule.cites),
                    "file": path.relative_to(specs.SPECS.parent).as_posix(),
                }
            )
    return found
