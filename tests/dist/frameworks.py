"""Trainers of others around our optimizers; runs in every process."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import optc
from tests.dist.training import Net, batch, difference, train, whole


def accelerated(rank: int, size: int, name: str, zero1: bool) -> float:
    """Accelerate's loop over DistributedDataParallel, with a scheduler, beside one process on the whole batch."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, step_scheduler_with_optimizer=False)
    assert accelerator.num_processes == size == dist.get_world_size()
    found = []
    for alone in (False, True):
        torch.manual_seed(0)
        model: Any = Net()
        optimizer: Any = optc.create(name, model, lr=1e-3)
        inner = optimizer
        scheduler: Any = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        if not alone:
            model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
            if zero1:
                optc.dist.Zero1(inner)
        for step in range(6):
            x = batch(step, 0, 1) if alone else batch(step, rank, size)
            loss = model(x).square().mean()
            loss.backward() if alone else accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        found.append(whole(model))
    return difference(*found)


def accelerated_in_parts(rank: int, size: int, name: str) -> tuple[bool, float]:
    """Accelerate's own FSDP2, which replaces the optimizer's parameters: whether it did, and how far one process is.

    Accelerate refuses it without an accelerator, so its state is told that it was asked for.
    """
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType
    from torch.distributed.tensor import DTensor

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="no_wrap",
        cpu_ram_efficient_loading=False,
        reshard_after_forward=True,
        state_dict_type="SHARDED_STATE_DICT",
    )
    accelerator = Accelerator(cpu=True, step_scheduler_with_optimizer=False)
    AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    found, replaced = [], False
    for alone in (False, True):
        torch.manual_seed(0)
        model: Any = Net()
        optimizer: Any = optc.create(name, model, lr=1e-3)
        inner = optimizer
        if not alone:
            model, optimizer = accelerator.prepare(model, optimizer)
            replaced = all(isinstance(p, DTensor) for p in inner.param_groups[0]["params"])
        for step in range(6):
            loss = model(batch(step, 0, 1) if alone else batch(step, rank, size)).square().mean()
            loss.backward() if alone else accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        found.append(whole(model))
    return replaced, difference(*found)


def in_deepspeed(rank: int, size: int, name: str, stage: int) -> float | str:
    """DeepSpeed's ZeRO around an optimizer, beside one process on the whole batch; or what the optimizer says to it."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), DS_ACCELERATOR="cpu")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    logging.disable(logging.WARNING)
    import deepspeed

    torch.manual_seed(0)
    model = Net(torch.float32)
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1000,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optc.create(name, model, lr=1e-3), config=config)
    try:
        for step in range(6):
            engine.backward(engine(batch(step, rank, size)).square().mean())
            engine.step()
    except ValueError as error:
        return str(error)
    finally:
        logging.disable(logging.NOTSET)
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters()), enabled=stage == 3):
        found = {n: p.detach().clone() for n, p in engine.module.named_parameters()}
    torch.manual_seed(0)
    alone = Net(torch.float32)
    train(alone, optc.create(name, alone, lr=1e-3), range(6), alone=True)
    return difference(found, whole(alone))


def in_lightning(name: str, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters after six steps of Lightning's Trainer, and of a loop of one's own."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = Net()

        def training_step(self, x: torch.Tensor, index: int) -> Any:
            return self.net(x[0]).square().mean()

        def configure_optimizers(self) -> Any:
            optimizer = optc.create(name, self.net)
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 100)}

    batches = torch.utils.data.DataLoader([batch(step, 0, 1) for step in range(6)], batch_size=1)  # type: ignore[arg-type,var-annotated]
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, batches)
    torch.manual_seed(0)
    net: nn.Module = Net()
    train(net, optc.create(name, net), range(6), alone=True)
    return whole(module.net), whole(net)


def in_transformers(optimizer: Any, folder: str, **options: Any) -> dict[str, Any]:
    """The parameters after six steps of the Trainer of transformers, with an optimizer class and its hypers."""
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = Net()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.net(x) - labels).square().mean()}

    data = [{"x": row, "labels": row.sum()} for step in range(6) for row in batch(step, 0, 1)]
    arguments = TrainingArguments(
        output_dir=folder, max_steps=6, per_device_train_batch_size=8, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True, logging_strategy="no", seed=0, **options,
    )  # fmt: skip
    model = Model()
    trainer = Trainer(model=model, args=arguments, train_dataset=data, optimizer_cls_and_kwargs=optimizer)
    trainer.train()
    return whole(model.net)
