"""Which backend runs, and what is said when one cannot."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

from optc.runtime import choose
from optc.runtime.backend import BackendUnavailable
from optc.runtime.torch_launch import TORCH
from tests.runtime.handmade import SGD, AdamW
from tests.runtime.training import assert_equal, give_gradients, parameters, train, twins


class Recorder:
    """A backend that runs PyTorch code and counts, or is unavailable."""

    def __init__(self, name: str, reason: str | None = None) -> None:
        self.name, self.reason, self.prepared, self.halved, self.launched = name, reason, 0, 0, 0
        self.flags: list[list[bool]] = []

    def prepare(self, kernels: Any, residents: Any) -> Any:
        if self.reason is not None:
            raise BackendUnavailable(self.reason)
        self.prepared += len(kernels)
        recorder = self

        class Launcher:
            def __init__(self, inner: Any) -> None:
                self.inner = inner

            def only(self, members: Any) -> Launcher:
                recorder.halved += 1
                return Launcher(self.inner.only(members))

            def launch(self, varying: Any, scalars: Any, flags: Any, factor: float) -> None:
                recorder.launched += 1
                recorder.flags.append(list(flags))
                self.inner.launch(varying, scalars, flags, factor)

        return [Launcher(launcher) for launcher in TORCH.prepare(kernels, residents)]


def use(monkeypatch: pytest.MonkeyPatch, *backends: Recorder) -> None:
    by_name = {backend.name: backend for backend in backends}
    monkeypatch.setattr(choose, "load", by_name.__getitem__)
    choose._notice.cache_clear()


def test_auto_prefers_native_code_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    native, fallback = Recorder("native"), Recorder("torch")
    use(monkeypatch, native, fallback)
    params = parameters()
    train(range(2), (AdamW(params, backend="auto"), params))
    assert (native.launched, fallback.launched) == (2, 0)


def test_auto_falls_back_to_pytorch_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Recorder("native", "no compiler was found"), fallback := Recorder("torch"))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for _ in range(2):
            params = parameters()
            train(range(2), (AdamW(params, backend="auto"), params))
    assert fallback.launched == 4
    assert [str(w.message) for w in heard] == [
        "optimizing on cpu with PyTorch operations, which is slower: no compiler was found"
    ]


def test_a_backend_asked_for_by_name_must_run(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters()
    before = twins(params)
    use(monkeypatch, Recorder("native", "no compiler was found"))
    for optimizer in (AdamW(params, backend="native"), SGD(params, backend="native")):
        give_gradients(0, params)
        with pytest.raises(BackendUnavailable, match="backend='native' cannot run on cpu: no compiler was found"):
            optimizer.step()
        assert not optimizer.state
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(BackendUnavailable, match="backend='triton' cannot run on cpu: Triton needs a GPU"):
        train([0], (AdamW(params, backend="triton"), params))
    assert_equal(params, before)


def test_other_devices_use_pytorch() -> None:
    assert choose.prepare("auto", [], [], torch.device("mps"))[0].name == "torch"
    p = torch.nn.Parameter(torch.zeros(3, device="meta"))
    p.grad = torch.zeros(3, device="meta")
    AdamW([p], backend="auto").step()


def test_capturable_needs_triton() -> None:
    for backend in ("torch", "native", "auto"):
        params = parameters()
        optimizer = AdamW(params, backend=backend, capturable=True)
        with pytest.raises(BackendUnavailable, match=r"capturable=True needs the triton backend: .* counts on the host"):
            train([0], (optimizer, params))
        assert not optimizer.state


def test_one_launch_per_dtype_variant_and_distinct_scalars(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder("torch")
    use(monkeypatch, recorder)
    params = [*parameters([(2,), (3,), (2, 2)]), *parameters([(4,)], torch.bfloat16)]
    optimizer = SGD(params, momentum=0.9, every=3, double="matrices")

    def launches(taking: list[torch.nn.Parameter]) -> int:
        optimizer.zero_grad()
        recorder.launched, recorder.flags = 0, []
        train([0], (optimizer, taking))
        return recorder.launched

    assert [launches(params) for _ in range(3)] == [3, 3, 3], "matrices differ from vectors in a flag, bf16 from fp32"
    assert [launches(params[:1]), launches(params[1:]), launches(params)] == [1, 3, 3], "all counts are 5 in the end"
    launches(params[:1])
    prepared, halved = recorder.prepared, recorder.halved
    for _ in range(6):
        count = launches(params)
        assert count == (4 if any(average for _, average in recorder.flags) else 3), (
            "counts 6 and 5 differ only when one is due"
        )
    assert recorder.prepared == prepared, "who takes part changes no kernel"
    assert recorder.halved - halved == 2, "the two halves of one batch are kept"


def test_a_steady_step_prepares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder("torch")
    use(monkeypatch, recorder)
    params = parameters()
    for optimizer in (AdamW(params), SGD(params, momentum=0.9)):
        train(range(2), (optimizer, params))
        prepared = recorder.prepared
        for seed in range(5):
            optimizer.param_groups[0]["lr"] = 0.1 / (seed + 1)
            optimizer.zero_grad()
            train([seed], (optimizer, params))
        optimizer.state_dict()
        train([9], (optimizer, params))
        assert recorder.prepared == prepared


def test_importing_the_runtime_loads_neither_triton_nor_a_compiler() -> None:
    code = "import sys, optc.runtime; print([m for m in ('triton', 'optc.runtime.native', 'lark') if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[]\n"
