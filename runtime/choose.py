"""Which backend runs a batch: the one asked for, or the best that works on this device."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

import torch

from optc.runtime.backend import Backend, BackendUnavailable, Launcher, Residents
from optc.runtime.schema import Kernel

Choice: TypeAlias = Literal["auto", "torch", "native", "triton"]

_MODULES = {
    "torch": ("optc.runtime.torch_launch", "TORCH"),
    "native": ("optc.runtime.native", "NATIVE"),
    "triton": ("optc.runtime.triton_launch", "TRITON"),
}
CHOICES = ("auto", *_MODULES)

_BEST = {"cuda": ("triton", "torch"), "cpu": ("native", "torch")}


def load(name: str) -> Backend:
    """The backend of that name, imported on first use. Raises BackendUnavailable where its module cannot be imported."""
    module, attribute = _MODULES[name]
    try:
        return cast(Backend, getattr(importlib.import_module(module), attribute))
    except ImportError as error:
        raise BackendUnavailable(f"the {name} backend cannot be imported: {error}") from error


def _candidates(choice: Choice, device: torch.device) -> tuple[str, ...]:
    """The backends to try, best first."""
    return _BEST.get(device.type, ("torch",)) if choice == "auto" else (choice,)


def prepare(
    choice: Choice, kernels: Sequence[Kernel], residents: Sequence[Residents], device: torch.device
) -> tuple[Backend, list[Launcher]]:
    """Binds a procedure's kernels to one batch. Raises BackendUnavailable if a backend asked for by name cannot run here.

    Under "auto" the next best takes over, and says so once.
    """
    names = _candidates(choice, device)
    reason = ""
    for name in names:
        try:
            _require_device(name, device)
            backend = load(name)
            launchers = backend.prepare(kernels, residents)
        except BackendUnavailable as error:
            reason = str(error)
            if choice != "auto":
                raise BackendUnavailable(f"backend={choice!r} cannot run on {device}: {reason}") from error
        else:
            if name != names[0]:
                _notice(f"optimizing on {device.type} with PyTorch operations, which is slower: {reason}")
            return backend, launchers
    raise BackendUnavailable(f"no backend can run on {device}: {reason}")


def expected(choice: Choice, device: torch.device) -> str:
    """The backend that `prepare` would take, as far as can be said without compiling anything."""
    for name in _candidates(choice, device):
        try:
            _require_device(name, device)
            load(name)
            if name == "native":
                importlib.import_module("optc.runtime.native_build").find_compiler()
        except BackendUnavailable:
            continue
        return name
    return "none"


def prepare_capturable(choice: Choice, device: torch.device) -> Any:
    """Triton's `prepare_capturable`. Raises BackendUnavailable unless these parameters are for the triton backend."""
    try:
        if choice not in ("auto", "triton") or (choice == "auto" and device.type != "cuda"):
            raise BackendUnavailable(f"backend={choice!r} on {device.type} counts on the host")
        _require_device("triton", device)
        load("triton")
        return importlib.import_module(_MODULES["triton"][0]).prepare_capturable
    except BackendUnavailable as error:
        raise BackendUnavailable(f"capturable=True needs the triton backend: {error}") from error


def can_count_on(choice: Choice, device: torch.device) -> bool:
    """Whether a GPU's parameters can be counted there: then nothing is read back, not even under loss scaling."""
    try:
        return device.type == "cuda" and prepare_capturable(choice, device) is not None
    except BackendUnavailable:
        return False


def _require_device(name: str, device: torch.device) -> None:
    if name == "native" and device.type != "cpu":
        raise BackendUnavailable(f"native code runs on the CPU, the parameters are on {device.type}")
    if name == "triton" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise BackendUnavailable("Triton needs a GPU (or TRITON_INTERPRET=1, to try a kernel on the CPU)")


@functools.cache
def _notice(text: str) -> None:
    """Says it once per process."""
    warnings.warn(text, stacklevel=2)
