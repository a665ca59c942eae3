"""The same transformer on four processes under ZeRO stage 3, killed on the way, and resumed on two.

Its loss curve is that of one process: the optimizer measures whole tensors, whoever has which part of them, and its checkpoint
loads on any number of processes. All processes run on this machine's CPU.

    python examples/char_transformer/distributed.py            # a minute on two cores
    python examples/char_transformer/distributed.py --quick    # a few seconds more than starting the processes takes
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import click
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).resolve().parent))

from train import QUICK, Block, Corpus, Settings, Transformer, batch_of, loss_of


@dataclass(frozen=True, slots=True)
class Run:
    """What all processes are told: how many steps, when to save, and when the first of them is killed."""

    optimizer: str
    settings: Settings
    steps: int
    every: int
    killed: int | None
    folder: Path
    losses: Path


def work(rank: int, size: int, run: Run) -> None:
    """One process. Where another one has died it ends, too: that is for whoever has started them."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        train(rank, size, run)
    except RuntimeError as error:
        if run.killed is None:
            raise
        click.echo(f"  process {rank} ends: {str(error).splitlines()[0][:90]} …")
        os._exit(1)


def train(rank: int, size: int, run: Run) -> None:
    """Goes on from the last checkpoint, if there is one, to the end."""
    import optc

    store = run.folder / f"store-{size}"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=60))
    corpus = Corpus.documentation()
    torch.manual_seed(0)
    model = Transformer(len(corpus.alphabet), run.settings)
    if size > 1:
        optc.dist.shard(model, stage=3, blocks=[Block])
    optimizer = optc.create(f"{run.optimizer} + clip_global_norm + cosine(T = {run.steps})", model, lr=3e-3)
    first = 0
    checkpoints = run.folder / "checkpoints"
    if size > 1 and (checkpoints / "latest").exists():
        optc.dist.load(checkpoints, optimizer, model)
        first = int(optimizer.param_groups[0]["steps_done"])
    for step in range(first, run.steps):
        if rank == 0 and step == run.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        x, y = batch_of(corpus.train, run.settings, torch.Generator().manual_seed(step))
        loss = loss_of(model, x[rank::size], y[rank::size])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        mean = loss.detach()
        dist.all_reduce(mean)
        if rank == 0:
            with run.losses.open("a", encoding="utf-8") as file:
                file.write(json.dumps([step, mean.item() / size]) + "\n")
        if size > 1 and (step + 1) % run.every == 0:
            optc.dist.save(checkpoints, optimizer, model)
    dist.barrier()
    dist.destroy_process_group()


def started(size: int, run: Run) -> list[int | None]:
    """Runs so many processes to their end, or until one dies; their exit codes."""
    context = mp.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, size, run)) for rank in range(size)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        for process in processes:
            process.join(0.5)
        if any(process.exitcode not in (None, 0) for process in processes):
            for process in processes:  # as torchrun does: the others would wait for it
                process.join(2)
                process.kill()
    return [process.exitcode for process in processes]


def curve(path: Path) -> dict[int, float]:
    """The loss of every step; of those that were made twice the later one."""
    return dict(map(json.loads, path.read_text(encoding="utf-8").splitlines()))


def draw(one: dict[int, float], before: dict[int, float], after: dict[int, float], name: str, path: Path) -> None:
    """The three curves in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(one.keys(), one.values(), color="0.75", linewidth=4, label="one process")
    axes.plot(before.keys(), before.values(), color="tab:blue", linewidth=1.2, label="4 processes, until one is killed")
    axes.plot(after.keys(), after.values(), color="tab:orange", linewidth=1.2, label="2 processes, from the last checkpoint")
    axes.set(xlabel="step", ylabel="cross-entropy per character", title=f"{name}, ZeRO stage 3")
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


@click.command()
@click.option("--optimizer", default="LAMB", show_default=True, help="Any shipped optimizer.")
@click.option("--steps", type=click.IntRange(8), help="Steps of the training.  [default: 200]")
@click.option("--quick", is_flag=True, help="A tiny model and 16 steps.")
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), default=Path("out/distributed"), show_default=True)
def main(optimizer: str, steps: int | None, quick: bool, folder: Path) -> None:
    """Train on four processes, kill one, go on with two, and compare with one."""
    steps = steps or (16 if quick else 200)
    settings = QUICK if quick else Settings()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder = folder.resolve()

    def told(losses: str, killed: int | None = None) -> Run:
        return Run(optimizer, settings, steps, max(2, steps // 8), killed, folder, folder / losses)

    click.echo(f"one process: {steps} steps of {optimizer}")
    require(started(1, told("one.jsonl")) == [0])
    killed = steps // 2 + 1
    click.echo(f"four processes, ZeRO stage 3; the first is killed before step {killed}")
    codes = started(4, told("four.jsonl", killed))
    require(-signal.SIGKILL in codes)
    saved = (folder / "checkpoints" / "latest").read_text(encoding="utf-8").strip()
    click.echo(f"two processes go on from {saved}")
    require(started(2, told("two.jsonl")) == [0, 0])
    one, before, after = (curve(folder / f"{name}.jsonl") for name in ("one", "four", "two"))
    apart = max(abs(loss - one[step]) / one[step] for part in (before, after) for step, loss in part.items())
    click.echo("\nstep   one process   four, then two")
    for step in sorted({0, *range(0, steps, max(1, steps // 8)), steps - 1}):
        click.echo(f"{step:4d}   {one[step]:11.6f}   {({**before, **after})[step]:14.6f}")
    draw(one, before, after, optimizer, folder / "losses.png")
    click.echo(f"\nlosses differ by {apart:.1e} at most, relatively; {folder / 'losses.png'}")


def require(done: bool) -> None:
    """Stops the example where processes did not end as they should."""
    if not done:
        raise click.ClickException("a process has failed; the reason is above")


if __name__ == "__main__":
    main()
