"""torch.distributed.checkpoint by itself, without `optc.dist`; runs in every process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from tests.dist.training import built, train, whole


def saved(rank: int, engine: str, name: str, path: Path, flat: bool) -> dict[str, Tensor]:
    """Three steps, a save, three more; the parameters then."""
    model, optimizer = built(engine, name)
    train(model, optimizer, range(3))
    save(_packed(model, optimizer, flat), checkpoint_id=path)
    train(model, optimizer, range(3, 6))
    return whole(model)


def resumed(rank: int, engine: str, name: str, path: Path, flat: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters of a model that was trained otherwise before, as they are loaded, and three steps later."""
    model, optimizer = built(engine, name)
    train(model, optimizer, range(10, 12))
    packed = _packed(model, optimizer, flat)
    load(packed, checkpoint_id=path)
    set_model_state_dict(model, packed["model"])
    set_optimizer_state_dict(model, optimizer, packed["optimizer"], options=_options(flat))
    loaded = whole(model)
    train(model, optimizer, range(3, 6))
    return loaded, whole(model)


def _packed(model: nn.Module, optimizer: Any, flat: bool) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=_options(flat)),
    }


def _options(flat: bool) -> StateDictOptions:
    return StateDictOptions(flatten_optimizer_state_dict=flat)
