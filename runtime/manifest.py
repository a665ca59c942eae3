"""The description beside a checkpoint's tensors, in JSON: optimizers, the hashes of their specs, how states are kept, hypers.

It is data from outside. Its form is looked at as a whole before anything in it is used, and so is whether the tensors that it
tells of are those in the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from optc.runtime.checkpoint_codes import codebook
from optc.runtime.checkpoint_names import NAMES
from optc.runtime.checkpoint_spec import SPEC
from optc.runtime.codebook import Codebook
from optc.runtime.forms import COUNT, TEXT, TRUTH, fields, leaf, maybe, rows, table
from optc.runtime.parts import rows_of
from optc.runtime.saved_index import Index, model_key, slot_key
from optc.runtime.schema import Extent, State

if TYPE_CHECKING:
    from optc.runtime.parted import Parted

MANIFEST = "optc.json"
FORMAT = 4
_NO_HYPERS = ("params", NAMES, SPEC)
"""Keys of a group that are told elsewhere."""


# --- writing ------------------------------------------------------------------------------------------------------------------


def described(
    optimizer: Parted, names: Sequence[str], packed: Mapping[str, Any], model: Mapping[str, Tensor] | None
) -> dict[str, Any]:
    """What the tensors of a save are: of an optimizer, by the names of its parameters, and of a model, if there is one."""
    parts = optimizer._schemas()
    part_of = {number: at for at, (_, numbers) in enumerate(parts) for number in numbers}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        "format": FORMAT,
        "parts": [
            {
                "optimizer": schema.name,
                "spec": schema.digest,
                "states": {state.key: _state(state) for state in schema.of_parameters},
            }
            for schema, _ in parts
        ],
        "model": None if model is None else {name: _entry(x) for name, x in model.items()},
        "groups": [
            {
                "part": part_of[number],
                "names": [names[index] for index in group["params"]],
                "named": NAMES in group,
                "hypers": {key: _encoded(x) for key, x in group.items() if key not in _NO_HYPERS},
            }
            for number, group in enumerate(packed["param_groups"])
        ],
        "parameters": {
            names[index]: {
                "shape": list(parameters[index].shape),
                "entries": {key: _entry(x) for key, x in slot.items() if isinstance(x, Tensor)},
            }
            for index, slot in packed["state"].items()
        },
    }


def _state(state: State) -> dict[str, Any]:
    book = {**asdict(state.storage), "levels": list(state.storage.levels)} if isinstance(state.storage, Codebook) else None
    return {"extent": state.extent, "host": state.host, "scale_key": state.scale_key, "codes": book}


def _entry(x: Tensor) -> dict[str, Any]:
    return {"dtype": _dtype(x), "shape": list(x.shape)}


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


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


# --- reading ------------------------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ValueError for what is no manifest."""
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
            raise ValueError(f"{folder} was saved in format {found['format']!r}; this version of optc reads {FORMAT}")
        problem = _problem(found)
    except RecursionError:
        raise ValueError(f"{path} cannot be read: it is nested too deeply") from None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if problem is not None:
        raise ValueError(f"{path} is not the description of a checkpoint: {problem}")
    read: dict[str, Any] = found
    return read


def require_tensors(folder: Path, manifest: Mapping[str, Any], index: Index) -> None:
    """Raises ValueError where the files have other tensors than a manifest tells of."""
    for key, dtype, shape in _tensors(manifest):
        if key in index.tensors and index.tensors[key] != (dtype, shape):
            other, size = index.tensors[key]
            raise ValueError(
                f"{folder / MANIFEST} is not the description of this checkpoint: it says that {key!r} is {dtype} of shape "
                f"{shape}, and the files have {other} of shape {size}"
            )
        if key not in index.tensors and 0 not in shape:  # of what is empty a division keeps nothing
            raise ValueError(f"{folder / MANIFEST} is not the description of this checkpoint: the files have no {key!r}")


def decoded(x: Any) -> Any:
    """A value of a group, as JSON has it."""
    if isinstance(x, list):
        return [decoded(value) for value in x]
    if not isinstance(x, dict):
        return x
    if "tensor" in x:
        return torch.tensor(x["tensor"], dtype=getattr(torch, x["dtype"]))
    if "tuple" in x:
        return tuple(decoded(value) for value in x["tuple"])
    return {key: decoded(value) for key, value in x["table"].items()} if "table" in x else x["text"]


def _tensors(manifest: Mapping[str, Any]) -> Iterator[tuple[str, torch.dtype, tuple[int, ...]]]:
    """The tensors that a manifest tells of as they lie in files."""
    for name, one in manifest["parameters"].items():
        for key, entry in one["entries"].items():
            shape = tuple(entry["shape"])
            yield slot_key(name, key), getattr(torch, entry["dtype"]), rows_of(shape, one["shape"]) or shape
    for name, entry in (manifest["model"] or {}).items():
        yield model_key(name), getattr(torch, entry["dtype"]), tuple(entry["shape"])


# --- form ---------------------------------------------------------------------------------------------------------------------


def _problem(found: Any) -> str | None:
    """What is wrong with a manifest; None where nothing is."""
    return _FORM(found, "") or _disagreement(found)


def _disagreement(found: Mapping[str, Any]) -> str | None:
    """What is wrong between the parts of a manifest that has the right form."""
    names: set[str] = set()
    for number, group in enumerate(found["groups"]):
        foreign = next((key for key in _NO_HYPERS if key in group["hypers"]), None)
        if foreign is not None:
            return f"groups[{number}].hypers has {foreign!r}, which is no hyper"
        if group["part"] >= len(found["parts"]):
            return f"groups[{number}].part is {group['part']}, of {len(found['parts'])} parts"
        for name in group["names"]:
            if name in names:
                return f"the groups name {name!r} twice"
            names.add(name)
    return None


def _value(found: Any, place: str) -> str | None:
    """A hyper."""
    if found is None or isinstance(found, bool | int | float | str):
        return None
    if isinstance(found, list):
        return rows(_value)(found, place)
    kind = next((one for one in _KINDS if one in found), None)
    return f"{place} is a table of no known kind" if kind is None else _KINDS[kind](found, place)


def _is_dtype(found: Any) -> bool:
    return isinstance(found, str) and isinstance(getattr(torch, found, None), torch.dtype)


def _is_tensor(found: Any) -> bool:
    if not _is_dtype(found.get("dtype")):
        return False
    try:
        decoded(found)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return True


_KINDS = {
    "tensor": leaf("a tensor", _is_tensor),
    "tuple": fields(tuple=rows(_value)),
    "table": fields(table=table(_value)),
    "text": fields(text=TEXT),
}
_SHAPE = rows(COUNT)
_ENTRIES = table(fields(dtype=leaf("a dtype of torch", _is_dtype), shape=_SHAPE))
_STATE = fields(
    extent=leaf(f"one of {', '.join(get_args(Extent))}", lambda found: found in get_args(Extent)),
    host=TRUTH,
    scale_key=TEXT,
    codes=maybe(leaf("a codebook", lambda found: codebook(found) is not None)),
)
_FORM = fields(
    format=COUNT,
    parts=rows(fields(optimizer=TEXT, spec=TEXT, states=table(_STATE))),
    model=maybe(_ENTRIES),
    groups=rows(fields(part=COUNT, names=rows(TEXT), named=TRUTH, hypers=table(_value))),
    parameters=table(fields(shape=_SHAPE, entries=_ENTRIES)),
)
