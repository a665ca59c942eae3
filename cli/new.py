"""`optc new`: a starter spec."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import click

from optc.cli import output
from optc.dsl.errors import OptcError

TEMPLATE = """\
# {name}: a spec is the algorithm box of a paper. `=` names a value, `<-` writes what lives on. In Greek: optc fmt --math {file}
optimizer {name}:
    "What it does, in one line: the docstring of the class."
    hyper:  # the keyword arguments; a range is checked, a text is shown in the documentation
        lr    = 1e-3                         in [0, inf) "step size"
        betas = (beta1 = 0.9, beta2 = 0.999) in [0, 1)   "decay rates of the two averages"
        eps   = 1e-8                         in [0, inf) "keeps the division finite"
    state:  # kept for every parameter, shaped like it; `as` names the key in the checkpoint
        m = 0 as exp_avg
        v = 0 as exp_avg_sq
    step:  # g is the gradient, t the number of the step (1, 2, …), theta the parameter: written once
        m <- ema(m, g, beta1)  # beta1*m + (1 - beta1)*g
        v <- ema(v, g^2, beta2)
        u = debias(m, beta1)/(sqrt(debias(v, beta2)) + eps)  # debias(m, beta) is m/(1 - beta^t)
        theta <- theta - lr*u
"""

SCHEDULE = """\
# {name}: the learning rate after n steps. Call it, make a torch scheduler of it, or add it to an optimizer: AdamW + {part}
schedule {part}:
    "What it does, in one line: the docstring of the class."
    hyper:  # the keyword arguments; a range is checked, a text is shown in the documentation
        T      = 1000 in int [1, inf) "steps, with the warm-up"
        warmup = 100  in int [0, inf) "steps in which the rate grows from 0"
        last   = 0.0  in [0, 1]       "rate at the end as a share of the one given"
    lr:  # n are the steps done (0, 1, 2, …), base is the rate that the group was given
        left = max(0, (T - n)/max(1, T - warmup))  # the share of steps that are left, 0 after T
        if n < warmup:
            rate = base*n/max(1, warmup)
        else:
            rate = base*(last + (1 - last)*left)
        return rate
"""


@click.command(short_help="Write a commented starter spec.")
@click.argument("name")
@click.option("--schedule", is_flag=True, help="Of a learning rate over the steps, instead of an optimizer.")
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), default=Path(), help="The folder to write it to.")
def new(name: str, schedule: bool, folder: Path) -> None:
    """Write a commented starter spec that checks and builds; NAME is the class it describes.

    \b
    Examples:
      optc new MyOptimizer             writes my_optimizer.opt
      optc new MyOptimizer -o specs/
      optc new MySchedule --schedule   writes my_schedule.opt, a warm-up and a line down
    """
    from optc.compiler.module_names import module_name
    from optc.compiler.write import write_text

    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) or keyword.iskeyword(name):
        raise click.BadParameter(f"{name!r} is no name for a class: a capital letter, then letters and digits (MyOptimizer)")
    part = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    path = folder / f"{part if schedule else module_name(name)}.opt"
    if path.exists():
        raise OptcError(f"{path}: is already there; it was left as it is")
    write_text(path, _schedule(part) if schedule else TEMPLATE.format(name=name, file=path.name))
    output.say(f"{output.good('wrote')} {path}")
    look = "plot" if schedule else "explain"
    output.say(output.dim(f"next: optc check {path}; optc {look} {path}; optc build {path} -o ."))


def _schedule(part: str) -> str:
    from optc.compiler.schedule_module import class_name

    return SCHEDULE.format(name=class_name(part), part=part)
