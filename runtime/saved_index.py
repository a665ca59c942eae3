"""What torch.distributed.checkpoint says of a save: which tensors it has, and in which files they lie.

Its index is a pickle, which the save's own process has written: see `saving.py` on whom to trust.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Index:
    """Tensors by their keys, each with its dtype and shape, and the names of the files."""

    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    files: frozenset[str]


def slot_key(name: str, key: str) -> str:
    """What a save calls an entry of a parameter's state."""
    return f"optimizer/{name}/{key}"


def model_key(name: str) -> str:
    """What a save calls a tensor of a model."""
    return f"model/{name}"


def read_index(folder: Path) -> Index:
    """The index of a save. Raises ValueError where it is none."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        found = FileSystemReader(folder).read_metadata()
        tensors = {
            key: (one.properties.dtype, tuple(one.size))
            for key, one in found.state_dict_metadata.items()
            if isinstance(one, TensorStorageMetadata)
        }
        return Index(tensors, frozenset(one.relative_path for one in found.storage_data.values()))
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{folder} cannot be loaded: {first_line(error)}") from None


def require_files(folder: Path) -> None:
    """Raises OSError where a file is not there that a process has written."""
    missing = sorted(name for name in read_index(folder).files if not (folder / name).is_file())
    if missing:
        raise OSError(
            f"{folder} lacks {len(missing)} of the files that processes have written, {missing[0]!r} for one: they do not "
            "share this folder; save to a path that all of them see"
        )


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, EOFError | pickle.UnpicklingError):  # where torch advises to execute what is in the file
        return "a file ends too early, or is none of torch.save"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
