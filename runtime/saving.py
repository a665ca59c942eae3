"""Checkpoints on disk, by one process or by many, which any other number of processes can load.

A checkpoint is a folder. In it each save makes a folder of its own, by torch.distributed.checkpoint, with the tensors; a file
beside them says what they are, in JSON: the optimizers, the hashes of their specs, how states are kept, hypers. Only then the
file `latest` is replaced, at once, to name it. So whatever ends a save early, the last whole one is loaded. Nothing that is
read is executed but the index of torch.distributed.checkpoint, which is a pickle: load none from a source that you do not
trust.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from optc.runtime.collectives import from_all
from optc.runtime.manifest import MANIFEST, described, read_manifest, require_tensors
from optc.runtime.names import bared, not_ours
from optc.runtime.parted import Parted
from optc.runtime.parts import in_rows
from optc.runtime.saved_fitting import Fitting, FittingModel, Loaded, distinct_names
from optc.runtime.saved_index import first_line, model_key, read_index, require_files, slot_key

T = TypeVar("T")

LATEST = "latest"
"""The file that names the folder of the last whole save."""


def save(path: str | os.PathLike[str], optimizer: Parted, model: nn.Module | None = None, *, keep: int = 1) -> Path:
    """Saves an optimizer and, if it is given, a model; all processes of the default group call it, and it waits for all.

    Each process writes what it has: of parameters that are divided (FSDP2, tensor parallelism, `optc.dist.Zero1`) its part. So
    all of them must see the same folder. Of earlier saves at the same place the last `keep` are kept. Parameters are known by
    the names that the optimizer has of them (`optc.create("AdamW", model)` gives it all), without what DistributedDataParallel
    and torch.compile put before names, else by their places.

    Returns the folder that was written. Raises OSError where that is not possible, ValueError where it makes no sense,
    TypeError for an optimizer that is none of ours; then what was there is as it was.
    """
    if not isinstance(optimizer, Parted):
        raise not_ours("optc.dist.save", optimizer)
    root = Path(path)
    number = _agreed(lambda: _next_number(root, keep))
    names = distinct_names(optimizer)
    packed = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots = {names[index]: slot for index, slot in packed["state"].items()}
    tensors = _of_optimizer(slots, {name: p.shape for name, p in zip(names, parameters, strict=True)})
    of_model = None if model is None else _bare(dict(_tensors(model.state_dict())))
    tensors |= {model_key(name): x for name, x in (of_model or {}).items()}
    folder = root / f"save-{number:06d}"
    _agreed(lambda: folder.mkdir(parents=True))
    _dcp("save", tensors, folder)
    _agreed(lambda: _commit(root, folder, described(optimizer, names, packed, of_model), keep))
    return folder


def load(path: str | os.PathLike[str], optimizer: Parted, model: nn.Module | None = None, *, strict: bool = True) -> Loaded:
    """Loads what `save` has saved, whoever saved it: other numbers of processes, other divisions, other storages of states.

    States go to parameters by name, where optimizer and checkpoint have names, else by place; tensors go to the model by name.
    Without `strict` parameters and tensors that only one side has are left alone, and told by what is returned, and in a
    warning.

    Raises FileNotFoundError where there is no whole save, ValueError with everything that does not fit: another optimizer,
    states that the spec does not have any more, parameters of other shapes, files that are damaged. Then neither optimizer nor
    model has changed, in no process: RuntimeError tells the others what does not fit in one. Warns where a spec has changed
    since, and its states have not.
    """

    if not isinstance(optimizer, Parted):
        raise not_ours("optc.dist.load", optimizer)

    def fitted() -> tuple[Path, Fitting, Loaded, dict[str, Any], dict[str, Tensor]]:
        folder = latest(path)
        manifest = read_manifest(folder)
        require_tensors(folder, manifest, read_index(folder))
        if model is not None and manifest["model"] is None:
            raise ValueError(f"{folder} has no model: load the optimizer alone")
        fitting_model = None if model is None else FittingModel(dict(_tensors(model.state_dict())), manifest["model"])
        fitting = Fitting(optimizer, manifest, folder, fitting_model)
        report = fitting.check(strict)
        return folder, fitting, report, fitting.packed(), {} if fitting_model is None else fitting_model.templates()

    folder, fitting, report, packed, of_model = _in_all(fitted)
    shapes = {name: fitting.manifest["parameters"][name]["shape"] for name in fitting.templates}
    tensors = _of_optimizer(fitting.templates, shapes)
    called = {} if fitting.model is None else fitting.model.called
    _dcp("load", tensors | {model_key(called[key]): x for key, x in of_model.items()}, folder)

    def checked() -> Callable[[], None]:
        try:
            return optimizer._loading(packed)
        except ValueError as error:
            raise ValueError(f"{folder} cannot be loaded: {error}") from None

    _in_all(checked)()
    if model is not None:
        model.load_state_dict(of_model, strict=False)
    return report


def latest(path: str | os.PathLike[str]) -> Path:
    """The folder of the last whole save. Raises FileNotFoundError without one."""
    root = Path(path)
    if _is_whole(root):
        return root
    try:
        name = (root / LATEST).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise FileNotFoundError(f"{root / LATEST} is not text: write the name of a save-… folder into it") from None
    except OSError as error:
        raise FileNotFoundError(f"{root} has no checkpoint: no save there has come to its end") from error
    folder = root / Path(name).name
    if not _is_whole(folder):
        raise FileNotFoundError(f"{root / LATEST} names {name[:80]!r}, which is not there: name another save-… folder in it")
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a save has come to its end there."""
    return os.path.isfile(folder / MANIFEST)  # Path.is_file raises for names that no file can have


# --- writing ------------------------------------------------------------------------------------------------------------------


def _next_number(root: Path, keep: int) -> int:
    """The number of a new save. Raises ValueError where none can be made as it is asked for."""
    if not isinstance(keep, int) or keep < 0:
        raise ValueError(f"keep must be a whole number of earlier saves, 0 or above, not {keep!r}")
    if _is_whole(root):
        raise ValueError(f"{root} is a save itself, not a folder of saves: save to the folder above it, {root.parent}")
    return 1 + max((number for number, _ in _saves(root)), default=0)


def _of_optimizer(slots: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The tensors of an optimizer's state as checkpoints have them, by the names of its parameters, whose shapes are given."""
    entries = ((name, key, x) for name, slot in slots.items() for key, x in _tensors(slot))
    return {slot_key(name, key): in_rows(x, shapes[name]) for name, key, x in entries}


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model, however it is wrapped."""
    plain = bared(tensors)
    return {plain[key]: x for key, x in tensors.items()}


def _tensors(table: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    return ((key, x) for key, x in table.items() if isinstance(x, Tensor))


def _commit(root: Path, folder: Path, manifest: Mapping[str, Any], keep: int) -> None:
    """Makes a save the latest, in one step, then removes old ones, and those that have not come to their end."""
    require_files(folder)
    _write(folder / MANIFEST, json.dumps(manifest, indent=1))
    _write(root / LATEST, folder.name + "\n")
    others = [old for _, old in sorted(_saves(root)) if old.name != folder.name]
    whole = [old for old in others if _is_whole(old)]
    kept = whole[max(len(whole) - keep, 0) :]
    for old in others:
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    """Replaces a file at once."""
    beside = path.with_name(path.name + ".new")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _saves(root: Path) -> list[tuple[int, Path]]:
    """All saves, whole or not, with their numbers."""
    found = []
    for folder in root.glob("save-*"):
        number = folder.name.removeprefix("save-")
        if folder.is_dir() and number.isdecimal():
            found.append((int(number), folder))
    return found


# --- processes ----------------------------------------------------------------------------------------------------------------


def _alone() -> bool:
    import torch.distributed as dist

    return not dist.is_available() or not dist.is_initialized()


def _agreed(work: Callable[[], Any]) -> Any:
    """Does something in the first process, and gives all of them what came of it. Raises what it raised there."""
    if _alone():
        return work()
    import torch.distributed as dist

    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = work()
        except (OSError, ValueError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _in_all(work: Callable[[], T]) -> T:
    """Does something in every process, each for itself. Raises in all of them where one of them has raised."""
    if _alone():
        return work()
    outcome, error = None, None
    try:
        outcome = work()
    except Exception as raised:
        error = raised
    told = from_all(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for rank, text in enumerate(told):
        if text is not None:
            raise RuntimeError(f"nothing was loaded, since process {rank} cannot: {text}")
    return cast(T, outcome)


def _dcp(what: str, tensors: dict[str, Tensor], folder: Path) -> None:
    """Saves or loads by torch.distributed.checkpoint, whose errors are turned into ours."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load as read
    from torch.distributed.checkpoint.state_dict_saver import save as write

    done = "saved" if what == "save" else "loaded"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (write if what == "save" else read)(tensors, checkpoint_id=folder, no_dist=_alone())
    except CheckpointException as error:
        causes = "; ".join(sorted({first_line(cause) for cause, _ in error.failures.values()}))
        raise (OSError if what == "save" else ValueError)(f"{folder} cannot be {done}: {causes}") from None
    except (OSError, EOFError, RuntimeError, KeyError) as error:
        raise (OSError if what == "save" else ValueError)(f"{folder} cannot be {done}: {first_line(error)}") from None
