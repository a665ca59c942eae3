"""`optc explain`: a spec and all that is made of it."""

from __future__ import annotations

import click

from optc.cli import output, specs
from optc.compiler.explain import STAGES
from optc.compiler.explain_sharding import SHAPES, explain_sharding, shapes_of, show_sharding


@click.command(short_help="Show a spec at any stage of the compiler.")
@click.argument("spec", type=specs.SPEC)
@click.option("-s", "--stage", type=click.Choice(list(STAGES)), default="overview", show_default=True, help="What to show.")
@specs.with_option
@specs.store_option
@click.option("--sharding", is_flag=True, help="Show how parameters may be divided among processes, and what that costs.")
@click.option("--shapes", default=SHAPES, show_default=True, help="Parameters for which --sharding counts bytes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: errors, stage, and plan, cost, sharding or text.")
def explain(
    spec: str,
    stage: str,
    modifiers: tuple[str, ...],
    storing: tuple[str, ...],
    sharding: bool,
    shapes: str,
    as_json: bool,
) -> None:
    """Show SPEC at one stage of the compiler, or what is derived from it.

    \b
    overview  the spec in mathematical spelling, and what a step costs; of a storage, what it keeps;
              of a schedule, its values over the steps
    parse     the tree of nodes, with line and column
    program   typed statements: where each value varies, what the host knows
    update    the same with early ends resolved and expressions simplified
    plan      what runs on the host; kernels, what they read and write
    torch, native, triton   the generated code
    latex     the update as equations
    cost      bytes and operations per element, for every dtype and variant
    Schedules are plain functions on the host: they have overview, parse, torch (their module) and latex.

    \b
    Examples:
      optc explain adamw
      optc explain my.opt --stage plan
      optc explain lion -s latex > lion.tex
      optc explain adam -s cost --json
      optc explain adamw --with cautious,lookahead    the composed step, and what each modifier costs
      optc explain adamw --store m=dynamic8,v=udynamic8   states in eight bits: bytes, and how far that is off
      optc explain dynamic8                           a storage: its levels, bytes and errors
      optc explain cosine                             a schedule: its values over the steps
      optc explain adamw --with 'cosine(T = 500)'     a schedule compiled into the step
      optc explain lamb --sharding                    ZeRO and tensor parallelism: what is legal, messages, bytes
      optc explain adafactor --sharding --shapes 50257x768,768x3072,3072
    """
    from optc.compiler.explain import explain, explain_json, explain_others

    source = specs.source(spec)
    others = None if modifiers or storing else explain_others(source, stage)
    if others is not None:
        if as_json:
            output.say_json(stage=stage, text=others)
        else:
            output.say(others)
        return
    expanded = specs.spec_of(source, modifiers, storing)
    if sharding:
        told = explain_sharding(expanded.source, shapes_of(shapes))
        output.say_json(stage="sharding", sharding=told.json()) if as_json else output.say(show_sharding(told))
        return
    if as_json:
        output.say_json(stage=stage, **explain_json(expanded.source, stage))
        return
    output.say(explain(expanded.source, stage))
    if stage in ("overview", "cost") and expanded.derived is not None and expanded.derived.modifiers:
        from optc.compiler.compose.cost import show_added_cost

        output.say(f"\n{show_added_cost(expanded)}")
        scheduling = [term.name for term in expanded.derived.modifiers if specs.is_schedule(term.name, expanded)]
        for name in scheduling:
            output.say(f"  {name} is a schedule: a few numbers, computed once per step before the tensors are touched")
