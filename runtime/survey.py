"""One native call that looks at all parameters and gradients of a plan. What it cannot vouch for is looked at in Python.

Python needs several passes over thousands of tensors to see that nothing but the gradients' addresses and values changed, and
an object per gradient; that takes longer than a GPU, or two cores, need for the update. `survey.cpp` asks PyTorch's C interface
instead. Where there is no compiler, or a release of PyTorch lacks a function or answers otherwise than Python, there is none.
"""

from __future__ import annotations

import ctypes
import functools
import os
from array import array
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from weakref import finalize

import torch
from torch import Tensor

from optc.runtime import checks
from optc.runtime.backend import BackendUnavailable
from optc.runtime.native_build import load_library

_GRADIENT = "_ZNK3c1010TensorImpl4gradEv"  # const at::Tensor& c10::TensorImpl::grad() const
_HAS_STORAGE = "_ZNK3c1010TensorImpl11has_storageEv"  # bool c10::TensorImpl::has_storage() const
_BUMP = "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE"  # void bump_version(const at::Tensor&)
_INTERFACE = ("data_ptr", "dim", "sizes", "strides", "dtype", "device_type", "device_index")
_ASSIGN = "aoti_torch_assign_tensors"

_pointer = ctypes.c_void_p
_HEAD = object.__basicsize__


@dataclass(frozen=True, slots=True)
class _Native:
    """The functions of `survey.cpp`. They keep the interpreter's lock, so that no thread exchanges a gradient meanwhile."""

    torch: Any
    new: Callable[..., int | None]
    look: Callable[..., int]
    release: Callable[..., None]
    delete: Callable[..., None]
    bump: Callable[..., int]
    same: Callable[..., int]


@dataclass(frozen=True, slots=True)
class Sight:
    """What a survey found: a byte per parameter of the group, 1 where it has a gradient, and the addresses of those."""

    present: bytes
    addresses: Sequence[int]


class Survey:
    """The parameters of a group, as they were when a plan was built."""

    def __init__(self, native: _Native, parameters: Sequence[Tensor], residents: Sequence[Tensor], handle: int) -> None:
        self._native = native
        self._parameters = list(parameters)
        self._residents = list(residents)
        self._handle = handle
        self._present = array("B", bytes(len(parameters)))
        self._addresses = array("q", bytes(8 * len(parameters)))
        self._places = self._present.buffer_info()[0], self._addresses.buffer_info()[0]
        finalize(self, native.delete, handle).atexit = False

    @classmethod
    def of(cls, parameters: Sequence[Tensor], expected: Sequence[bool], residents: Sequence[Tensor] = ()) -> Self | None:
        """`expected` says which parameters may have a gradient in a step to come, `residents` are the states.

        None where Python has to look.
        """
        native = _native()
        if native is None or not set(map(type, parameters)) <= checks.PLAIN or any(p.is_inference() for p in parameters):
            return None
        try:
            places, states = _references(parameters), _references(residents)
        except LookupError:
            return None
        handle = native.new(native.torch, places, bytes(expected), len(parameters), states, len(residents))
        return None if handle is None else cls(native, parameters, residents, handle)

    def look(self, parameters: Sequence[Tensor]) -> Sight | None:
        """The present gradients, kept alive until `release`; None if anything else changed, or might have."""
        native = self._native
        if type(parameters) is not list or not native.same(id(parameters) + _HEAD, id(self._parameters) + _HEAD):
            return None
        if not native.look(self._handle, *self._places):
            return None
        present = self._present.tobytes()
        return Sight(present, self._addresses[: present.count(1)])

    def release(self) -> None:
        """Lets go of the gradients of the last look."""
        self._native.release(self._handle)


class Written:
    """Tensors that kernels write to behind autograd's back; it must be told, or `backward` would use overwritten values."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tuple(tensors)
        self._native = _native()
        try:
            self._references = _references(tensors)
        except LookupError:
            self._native = None

    def only(self, members: Sequence[int]) -> Written:
        """Some of them."""
        fewer = copy(self)
        fewer._tensors = tuple([self._tensors[i] for i in members])
        if self._native is not None:
            fewer._references = (_pointer * len(members))(*[self._references[i] for i in members])
        return fewer

    def note(self) -> None:
        """Call it after writing. Tensors made in inference mode have no version to change."""
        if self._native is None or not self._native.bump(self._native.torch, self._references, len(self._tensors)):
            torch.autograd.graph.increment_version(self._tensors)


def _references(tensors: Sequence[Tensor]) -> Any:
    """The places in Python's objects that point to their tensors. Raises LookupError for an object that has none."""
    offset = _offset()
    places = [id(tensor) + offset for tensor in tensors]
    if any(_pointer.from_address(place).value != tensor._cdata for place, tensor in zip(places, tensors, strict=True)):
        raise LookupError("an object that does not hold its tensor")
    return (_pointer * len(places))(*places)


@functools.cache
def _offset() -> int:
    """Where in a tensor's Python object that pointer is. Raises LookupError if it is nowhere."""
    tensor = torch.zeros(1)
    for offset in range(object.__basicsize__, torch.Tensor.__basicsize__, ctypes.sizeof(_pointer)):
        if _pointer.from_address(id(tensor) + offset).value == tensor._cdata:
            return offset
    raise LookupError("tensors do not hold their implementation")


@functools.cache
def _native() -> _Native | None:
    """The compiled survey, tried out against Python."""
    try:
        native = _load()
    except (BackendUnavailable, LookupError, OSError, AttributeError):
        return None
    return native if _agrees(native) else None


def _load() -> _Native:
    if list.__basicsize__ != _HEAD + 3 * ctypes.sizeof(_pointer):
        raise LookupError("lists are not what they are in CPython: a count, a pointer to the items, a capacity")
    loaded = [_loaded_library(name) for name in ("c10", "torch_cpu")]
    interface = [_address(loaded[1], f"aoti_torch_get_{name}") for name in _INTERFACE]
    gradient = _address(loaded[0], _GRADIENT)
    reference = ctypes.PYFUNCTYPE(_pointer, _pointer)(gradient)(torch.zeros(())._cdata)
    undefined = _pointer.from_address(reference or 0).value
    assign = _address(loaded[1], _ASSIGN)
    starts = [gradient, _address(loaded[0], _HAS_STORAGE), _address(loaded[1], _BUMP)]
    table = (_pointer * 12)(*starts, undefined, *interface, assign)
    library = load_library(Path(__file__).with_name("survey.cpp").read_text(encoding="utf-8"), {})

    def function(name: str, result: Any, *arguments: Any) -> Any:
        return ctypes.PYFUNCTYPE(result, *arguments)(_address(library, name))

    return _Native(
        table,
        function("optc_survey_new", _pointer, _pointer, _pointer, ctypes.c_char_p, ctypes.c_int64, _pointer, ctypes.c_int64),
        function("optc_survey_look", ctypes.c_int32, _pointer, _pointer, _pointer),
        function("optc_survey_release", None, _pointer),
        function("optc_survey_delete", None, _pointer),
        function("optc_bump_versions", ctypes.c_int32, _pointer, _pointer, ctypes.c_int64),
        function("optc_same_items", ctypes.c_int32, _pointer, _pointer),
    )


def _loaded_library(name: str) -> ctypes.CDLL:
    """A library of PyTorch that this process has loaded already: never a second copy. Raises OSError where there is none."""
    suffix = "dylib" if os.uname().sysname == "Darwin" else "so"
    path = Path(torch.__file__).parent / "lib" / f"lib{name}.{suffix}"
    return ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_NOLOAD)


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), _pointer).value or 0


def _agrees(native: _Native) -> bool:
    """Whether the survey answers as Python does, on tensors of each kind that it must tell apart."""
    first, second, third = (torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 3), (4,), ()))
    fourth = torch.nn.Parameter(torch.ones(3, 1))
    parameters = [first, second, third, fourth]

    def sees() -> bool:
        present, addresses = array("B", bytes(4)), array("q", bytes(32))
        seen = native.look(handle, present.buffer_info()[0], addresses.buffer_info()[0])
        native.release(handle)
        if not seen:
            return False
        found = [p.grad.data_ptr() for p in parameters if p.grad is not None]
        return (present.tolist(), addresses[: len(found)].tolist()) == ([p.grad is not None for p in parameters], found)

    def differs(gradient: Tensor) -> bool:
        kept, first.grad = first.grad, None
        first.grad = gradient
        answer = sees()
        first.grad = kept
        return not answer and sees()

    first.grad, third.grad = torch.ones(2, 3), torch.ones(())
    state = torch.ones(3)
    handle = native.new(native.torch, _references(parameters), bytes([1, 0, 1, 1]), 4, _references([state]), 1)
    if handle is None:
        return False
    try:
        agrees = _same_lists(native) and sees() and differs(torch.ones(2, 3).to_sparse()) and differs(torch.ones(3, 2).t())
        first.grad, fourth.grad = None, torch.ones(3, 1)
        agrees = agrees and sees()
        second.grad = torch.ones(4)
        agrees = agrees and not sees()
        second.grad = None
        agrees = agrees and sees()
        state.data, kept = state.data.clone(), state.data
        agrees = agrees and not sees()
        state.data = kept
        agrees = agrees and sees()
        first.data = first.data.clone()
        versions = [p._version for p in parameters]
        native.bump(native.torch, _references(parameters), 4)
        return agrees and not sees() and [p._version for p in parameters] == [v + 1 for v in versions]
    finally:
        native.delete(handle)


def _same_lists(native: _Native) -> bool:
    one = [object(), object()]
    pairs = [(one, list(one), True), ([], [], True), (one, one[:1], False), (one, one[::-1], False)]
    return all(bool(native.same(id(a) + _HEAD, id(b) + _HEAD)) == same for a, b, same in pairs)
