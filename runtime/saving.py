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
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

import torch
from torch import Tensor, nn

from optc.runtime.checkpoint_names import NAMES
from optc.runtime.checkpoint_spec import SPEC
from optc.runtime.codebook import Codebook
from optc.runtime.collectives import from_all
from optc.runtime.names import bared
from optc.runtime.parts import in_rows
from optc.runtime.saved_fitting import Fitting, Loaded, names_of
from optc.runtime.schema import State

if TYPE_CHECKING:
    from optc.runtime.parted import Parted

T = TypeVar("T")

LATEST = "latest"
"""The file that names the folder of the last whole save."""
MANIFEST = "optc.json"
FORMAT = 3


def save(path: str | os.PathLike[str], optimizer: Parted, model: nn.Module | None = None, *, keep: int = 1) -> Path:
    """Saves an optimizer and, if it is given, a model; all processes of the default group call it, and it waits for all.

    Each process writes what it has: of parameters that are divided (FSDP2, tensor parallelism, `optc.dist.Zero1`) its part. Of
    earlier saves at the same place the last `keep` are kept. Parameters are known by the names that the optimizer has of them
    (`optc.create("AdamW", model)` gives it all), without what DistributedDataParallel and torch.compile put before names, else
    by their places.

    Returns the folder that was written. Raises OSError where that is not possible; then what was there is as it was.
    """
    root = Path(path)
    names = names_of(optimizer)
    packed = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots = {names[index]: slot for index, slot in packed["state"].items()}
    tensors = _of_optimizer(slots, {name: p.shape for name, p in zip(names, parameters, strict=True)})
    if model is not None:
        tensors |= _of_model(dict(_tensors(model.state_dict())))
    number = _agreed(lambda: 1 + max((n for n, _ in _saves(root)), default=0))
    folder = root / f"save-{number:06d}"
    _agreed(lambda: folder.mkdir(parents=True))
    _dcp("save", tensors, folder)
    _agreed(lambda: _commit(root, folder, _manifest(optimizer, names, packed, model is not None), keep))
    return folder


def load(path: str | os.PathLike[str], optimizer: Parted, model: nn.Module | None = None, *, strict: bool = True) -> Loaded:
    """Loads what `save` has saved, whoever saved it: other numbers of processes, other divisions, other storages of states.

    States go to parameters by name, where optimizer and checkpoint have names, else by place. Without `strict` parameters that
    only one side has are left alone, and told by what is returned, and in a warning.

    Raises FileNotFoundError where there is no whole save, ValueError with everything that does not fit: another optimizer,
    states that the spec does not have any more, parameters of other shapes, files that are damaged. Then neither optimizer nor
    model has changed, in no process: RuntimeError tells the others what does not fit in one. Warns where a spec has changed
    since, and its states have not.
    """

    def fitted() -> tuple[Path, Fitting, Loaded, dict[str, Any], dict[str, Tensor]]:
        folder = latest(path)
        manifest = _read_manifest(folder)
        fitting = Fitting(optimizer, manifest, folder)
        report = fitting.check(strict)
        if model is not None and not manifest.get("model"):
            raise ValueError(f"{folder} has no model: load the optimizer alone")
        of_model = {} if model is None else {key: _fresh(x) for key, x in _tensors(model.state_dict())}
        return folder, fitting, report, fitting.packed(), of_model

    folder, fitting, report, packed, of_model = _in_all(fitted)
    shapes = {name: fitting.manifest["parameters"][name]["shape"] for name in fitting.templates}
    tensors = _of_optimizer(fitting.templates, shapes)
    _dcp("load", tensors | _of_model(of_model), folder)
    optimizer.load_state_dict(packed)
    if model is not None:
        model.load_state_dict(of_model, strict=False)
    return report


def latest(path: str | os.PathLike[str]) -> Path:
    """The folder of the last whole save. Raises FileNotFoundError without one."""
    root = Path(path)
    if (root / MANIFEST).is_file():
        return root
    try:
        name = (root / LATEST).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise FileNotFoundError(f"{root} has no checkpoint: no save there has come to its end") from error
    folder = root / Path(name).name
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{root / LATEST} names {name!r}, which is not there: name another save-… folder in it")
    return folder


# --- writing ------------------------------------------------------------------------------------------------------------------


def _manifest(optimizer: Parted, names: Sequence[str], packed: Mapping[str, Any], has_model: bool) -> dict[str, Any]:
    """What the tensors of a save are."""
    parts = optimizer._schemas()
    part_of = {number: at for at, (_, numbers) in enumerate(parts) for number in numbers}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        "format": FORMAT,
        "parts": [
            {
                "optimizer": schema.name,
                "spec": schema.digest,
                "states": {state.key: _described(state) for state in schema.of_parameters},
            }
            for schema, _ in parts
        ],
        "model": has_model,
        "groups": [
            {
                "part": part_of[number],
                "names": [names[index] for index in group["params"]],
                "named": NAMES in group,
                "hypers": {key: _encoded(x) for key, x in group.items() if key not in ("params", NAMES, SPEC)},
            }
            for number, group in enumerate(packed["param_groups"])
        ],
        "parameters": {
            names[index]: {
                "shape": list(parameters[index].shape),
                "entries": {key: {"dtype": _dtype(x), "shape": list(x.shape)} for key, x in _tensors(slot)},
            }
            for index, slot in packed["state"].items()
        },
    }


def _described(state: State) -> dict[str, Any]:
    book = {**asdict(state.storage), "levels": list(state.storage.levels)} if isinstance(state.storage, Codebook) else None
    return {"extent": state.extent, "host": state.host, "scale_key": state.scale_key, "codes": book}


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _of_optimizer(slots: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The tensors of an optimizer's state as checkpoints have them, by the names of its parameters, whose shapes are given."""
    entries = ((name, key, x) for name, slot in slots.items() for key, x in _tensors(slot))
    return {f"optimizer/{name}/{key}": in_rows(x, shapes[name]) for name, key, x in entries}


def _of_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same of a model's, however it is wrapped."""
    plain = bared(tensors)
    return {f"model/{plain[key]}": x for key, x in tensors.items()}


def _tensors(table: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    return ((key, x) for key, x in table.items() if isinstance(x, Tensor))


def _encoded(x: Any) -> Any:
    """A value of a group in JSON, which knows no tensors and tuples."""
    if isinstance(x, Tensor):
        return {"tensor": x.tolist(), "dtype": _dtype(x)}
    if isinstance(x, tuple):
        return {"tuple": [_encoded(value) for value in x]}
    if isinstance(x, list):
        return [_encoded(value) for value in x]
    if isinstance(x, Mapping):
        return {"table": {str(key): _encoded(value) for key, value in x.items()}}
    return x if x is None or isinstance(x, bool | int | float | str) else {"text": str(x)}


def _commit(root: Path, folder: Path, manifest: Mapping[str, Any], keep: int) -> None:
    """Makes a save the latest, in one step, then removes old ones."""
    _write(folder / MANIFEST, json.dumps(manifest, indent=1))
    _write(root / LATEST, folder.name + "\n")
    for _, old in [s for s in sorted(_saves(root)) if s[1].name != folder.name][: -keep or None]:
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


# --- reading ------------------------------------------------------------------------------------------------------------------


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ValueError for what is no manifest."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / MANIFEST} cannot be read: {error}") from None
    if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{folder} was saved in format {found['format']!r}; this version of optc reads {FORMAT}")
    if not _well_formed(found):
        raise ValueError(f"{folder / MANIFEST} is not the description of a checkpoint")
    read: dict[str, Any] = found
    return read


def _well_formed(found: Any) -> bool:
    """Whether it has optimizers, groups of each, and parameters."""
    if not isinstance(found, dict) or not isinstance(found.get("parameters"), dict):
        return False
    parts, groups = found.get("parts"), found.get("groups")
    if not _are_tables(parts) or not _are_tables(groups):
        return False
    described = all(isinstance(one.get("optimizer"), str) and isinstance(one.get("states"), dict) for one in parts)
    return described and all(group.get("part") in range(len(parts)) and "names" in group for group in groups)


def _are_tables(found: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(found, list) and all(isinstance(row, dict) for row in found)


def _fresh(x: Tensor) -> Tensor:
    """Memory like a tensor's, to read into."""
    return torch.empty_like(x)


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
    """Does something in every process, before they begin to talk. Raises in all of them where one of them has raised."""
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
        causes = "; ".join(sorted({_first_line(cause) for cause, _ in error.failures.values()}))
        raise (OSError if what == "save" else ValueError)(f"{folder} cannot be {done}: {causes}") from None
    except (OSError, EOFError, RuntimeError, KeyError) as error:
        raise (OSError if what == "save" else ValueError)(f"{folder} cannot be {done}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    if isinstance(error, EOFError | pickle.UnpicklingError):  # where torch advises to execute what is in the file
        return "a file ends too early, or is none of torch.save"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
