"""Groups from models: beside groups by hand, torch's optimizers and the published rules; every error sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optc
from optc.generated import AdamW
from optc.runtime import groups
from tests.runtime.training import assert_equal, give_gradients


class Everything(nn.Module):
    """Every kind of norm, biases of all shapes, embeddings, a table of biases that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.table = nn.Parameter(torch.ones(3, 2))
        self.embed = nn.Embedding(5, 4)
        self.bag = nn.EmbeddingBag(5, 4)
        self.conv = nn.Conv2d(3, 4, 3)
        self.batch = nn.BatchNorm2d(4)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.sync = nn.SyncBatchNorm(4)
        self.lazy = nn.BatchNorm3d(2)
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm((3, 4))
        self.rms = nn.RMSNorm((2, 2))
        self.attention = nn.MultiheadAttention(4, 2)
        self.experts = nn.Module()
        self.experts.weight = nn.Parameter(torch.ones(2, 3, 4))
        self.experts.bias = nn.Parameter(torch.ones(2, 4))
        self.experts.gate_bias = nn.Parameter(torch.ones(2, 4))
        self.head = nn.Linear(4, 2)


DECAYED = {
    "table", "embed.weight", "bag.weight", "conv.weight", "attention.in_proj_weight", "attention.out_proj.weight",
    "experts.weight", "head.weight",
}  # fmt: skip


def names(group: dict[str, Any]) -> list[str]:
    return [name for name, _ in group["params"]]


def by_name(found: Iterable[dict[str, Any]], key: str) -> dict[str, Any]:
    """An option of every parameter."""
    return {name: group.get(key) for group in found for name in names(group)}


# --- no_decay -----------------------------------------------------------------------------------------------------------------


def test_biases_and_norms_have_no_decay() -> None:
    model = Everything()
    decayed, spared = groups.no_decay(model, 0.1)
    assert set(names(decayed)) == DECAYED and decayed["weight_decay"] == 0.1
    assert set(names(spared)) == {name for name, _ in model.named_parameters()} - DECAYED and spared["weight_decay"] == 0.0
    assert all(dict(model.named_parameters())[name] is p for group in (decayed, spared) for name, p in group["params"])


def test_embeddings_and_others_may_have_none_either() -> None:
    model = Everything()
    decayed, spared = groups.no_decay(model, 0.1, embeddings=True)
    assert set(names(decayed)) == DECAYED - {"embed.weight", "bag.weight"}
    decayed, spared = groups.no_decay(model, 0.1, also=("table", lambda name, p: p.ndim == 4))
    assert set(names(decayed)) == DECAYED - {"table", "conv.weight"}
    decayed, spared = groups.no_decay(model, also="head.*")
    assert "weight_decay" not in decayed and "head.weight" in names(spared)


def test_named_parameters_have_no_modules_but_shapes_and_names() -> None:
    decayed, spared = groups.no_decay(Everything().named_parameters(), 0.1)
    assert set(names(decayed)) == DECAYED | {"layer.weight", "rms.weight"}
    assert "experts.bias" in names(spared) and "experts.gate_bias" in names(spared) and "layer.bias" not in names(decayed)


def test_what_models_name_themselves_has_no_decay() -> None:
    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pos_embed, self.proj = nn.Parameter(torch.ones(2, 3)), nn.Linear(3, 3)
            self.tokens = nn.ParameterList([torch.ones(2, 3)])

        def no_weight_decay(self) -> set[str]:
            return {"pos_embed", "tokens.*", "absent"}

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pos_embed, self.backbone = nn.Parameter(torch.ones(2, 3)), Backbone()

    assert set(names(groups.no_decay(Backbone(), 0.1)[0])) == {"proj.weight"}
    assert set(names(groups.no_decay(Detector(), 0.1)[0])) == {"pos_embed", "backbone.proj.weight"}


def test_tied_parameters_stand_once_and_answer_to_all_their_names() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    assert isinstance(model["head"], nn.Linear) and isinstance(model["embed"], nn.Embedding)
    model["head"].weight = model["embed"].weight
    assert [names(group) for group in groups.no_decay(model, 0.1)] == [["embed.weight"]]
    assert by_name(groups.no_decay(model, 0.1, embeddings=True), "weight_decay") == {"embed.weight": 0.0}
    assert by_name(groups.override(model, {"head.*": {"lr": 0.5}}), "lr") == {"embed.weight": 0.5}
    pairs = model.named_parameters(remove_duplicate=False)
    assert by_name(groups.override(pairs, {"head.*": {"lr": 0.5}}), "lr") == {"embed.weight": 0.5}


def test_frozen_parameters_are_left_out_or_kept() -> None:
    model = Everything()
    model.conv.requires_grad_(False)
    left = [name for group in groups.no_decay(model, 0.1) for name in names(group)]
    assert "conv.weight" not in left and "conv.bias" not in left and "head.weight" in left
    decayed, spared = groups.no_decay(model, 0.1, frozen=True)
    assert "conv.weight" in names(decayed) and "conv.bias" in names(spared)


@pytest.mark.parametrize("make", [torch.optim.AdamW, AdamW], ids=["torch", "optc"])
def test_an_optimizer_trains_as_with_groups_by_hand(make: Callable[..., torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    model = Everything()
    twin = copy.deepcopy(model)
    ours = make(groups.no_decay(model, 0.3), lr=0.1)
    own = dict(twin.named_parameters())
    by_hand = [
        {"params": [p for name, p in own.items() if name in DECAYED], "weight_decay": 0.3},
        {"params": [p for name, p in own.items() if name not in DECAYED], "weight_decay": 0.0},
    ]
    theirs = make(by_hand, lr=0.1)
    for seed in range(3):
        give_gradients(seed, list(model.parameters()), list(twin.parameters()))
        ours.step()
        theirs.step()
    assert_equal(list(model.parameters()), list(twin.parameters()))
    saved = ours.state_dict()
    assert set(saved["param_groups"][0]["param_names"]) == DECAYED
    theirs.load_state_dict(saved)
    assert theirs.param_groups[0]["param_names"] == saved["param_groups"][0]["param_names"]


# --- layerwise ----------------------------------------------------------------------------------------------------------------


class Vit(nn.Module):
    """The names of a vision transformer, as timm, BEiT and MAE have them."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.ones(1, 1, 4)), nn.Parameter(torch.ones(1, 5, 4))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 4, 2)})
        block = nn.ModuleDict({"norm1": nn.LayerNorm(4), "attn": nn.Linear(4, 12), "mlp": nn.Sequential(nn.Linear(4, 4))})
        self.blocks = nn.ModuleList([copy.deepcopy(block) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    def no_weight_decay(self) -> set[str]:
        return {"cls_token", "pos_embed"}


def published(model: Vit, lr: float, decay: float, weight_decay: float) -> dict[str, tuple[float, float]]:
    """The learning rate and decay of every parameter, from how BEiT's fine-tuning is described: depth + 2 layers, of which
    tokens and patches are the first, and what is behind the blocks the last."""
    layers = len(model.blocks) + 2
    result = {}
    for name, p in model.named_parameters():
        if name in ("cls_token", "pos_embed", "mask_token") or name.startswith("patch_embed"):
            layer = 0
        elif name.startswith("blocks."):
            layer = int(name.split(".")[1]) + 1
        else:
            layer = layers - 1
        spared = p.ndim == 1 or name.endswith(".bias") or name in model.no_weight_decay()
        result[name] = (lr * decay ** (layers - 1 - layer), 0.0 if spared else weight_decay)
    return result


@pytest.mark.parametrize("depth", [1, 3, 12])
def test_layerwise_is_the_published_rule(depth: int) -> None:
    model = Vit(depth)
    found = groups.layerwise(model, 1e-3, 0.65, weight_decay=0.05)
    rates, decays = by_name(found, "lr"), by_name(found, "weight_decay")
    assert {name: (rates[name], decays[name]) for name in rates} == published(model, 1e-3, 0.65, 0.05)
    assert len(found) == 2 * (depth + 2), "with and without decay, at each depth"
    assert {len({rates[name] for name in names(group)}) for group in found} == {1}


NAMED: dict[str, dict[str, int]] = {
    "bert": {
        "bert.embeddings.word_embeddings.weight": 0, "bert.encoder.layer.0.attention.self.query.weight": 1,
        "bert.encoder.layer.1.output.dense.weight": 2, "bert.pooler.dense.weight": 3, "classifier.weight": 3,
    },
    "gpt2": {
        "transformer.wte.weight": 0, "transformer.wpe.weight": 0, "transformer.h.0.attn.c_attn.weight": 1,
        "transformer.h.1.mlp.c_fc.weight": 2, "transformer.ln_f.weight": 3, "lm_head.weight": 3,
    },
    "llama": {
        "model.embed_tokens.weight": 0, "model.layers.0.self_attn.q_proj.weight": 1, "model.layers.1.mlp.up_proj.weight": 2,
        "model.norm.weight": 3, "lm_head.weight": 3,
    },
    "t5": {
        "shared.weight": 0, "encoder.block.0.layer.0.q.weight": 1, "encoder.block.1.layer.1.wi.weight": 2,
        "encoder.final_layer_norm.weight": 2, "decoder.block.0.layer.0.q.weight": 3, "decoder.block.1.layer.2.wo.weight": 4,
        "decoder.final_layer_norm.weight": 5, "lm_head.weight": 5,
    },
    "swin": {
        "patch_embed.proj.weight": 0, "layers.0.blocks.0.mlp.weight": 1, "layers.0.blocks.1.mlp.weight": 2,
        "layers.0.downsample.weight": 2, "layers.1.blocks.0.mlp.layers.0.weight": 3, "head.fc.weight": 4,
    },
    "convnext": {
        "encoder.embed.weight": 0, "encoder.stages.0.layers.0.weight": 1, "encoder.stages.1.downsampling_layer.1.weight": 2,
        "encoder.stages.1.layers.0.weight": 2, "encoder.stages.1.layers.10.weight": 12, "classifier.weight": 13,
    },
    "resnet": {
        "conv1.weight": 0, "layer1.0.conv1.weight": 1, "layer1.1.conv1.weight": 2, "layer2.0.downsample.0.weight": 3,
        "fc.weight": 4,
    },
    "wrapped": {"module.embed.weight": 0, "module.blocks.0.weight": 1, "module.head.0.weight": 2},
    "gaps": {"blocks.0.weight": 1, "blocks.4.weight": 5, "head.weight": 6},
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMED)
def test_depths_of_usual_names(kind: str) -> None:
    depths = NAMED[kind]
    found = groups.layerwise([(name, nn.Parameter(torch.ones(2, 2))) for name in depths], 1.0, 0.5)
    last = max(depths.values())
    assert by_name(found, "lr") == {name: 0.5 ** (last - depth) for name, depth in depths.items()}


def test_frozen_blocks_count() -> None:
    model = Vit(3)
    model.blocks[1].requires_grad_(False)
    found = by_name(groups.layerwise(model, 1.0, 0.5), "lr")
    assert not any(name.startswith("blocks.1.") for name in found)
    assert found["head.weight"] == 1.0 and found["blocks.0.attn.weight"] == 0.5**3 and found["cls_token"] == 0.5**4


def test_depths_of_ones_own() -> None:
    model = nn.ModuleDict({"stem": nn.Linear(2, 2), "layer1": nn.Linear(2, 2), "fc": nn.Linear(2, 2)})
    found = by_name(groups.layerwise(model, 0.1, 0.5, depth=lambda name: {"s": 0, "l": 2, "f": 3}[name[0]]), "lr")
    assert found["stem.weight"] == 0.1 * 0.5**3 and found["layer1.bias"] == 0.1 * 0.5 and found["fc.weight"] == 0.1


def test_a_tensor_as_learning_rate_is_one_for_each_depth() -> None:
    found = groups.layerwise(Vit(2), torch.tensor(1.0), 0.5)
    assert len(found) == 4 and [float(group["lr"]) for group in found] == [0.125, 0.25, 0.5, 1.0]


def test_torchs_schedulers_drive_layerwise_groups() -> None:
    model = Vit(2)
    optimizer = torch.optim.AdamW(groups.layerwise(model, 1e-2, 0.5))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (n + 1))
    for n in range(3):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [1e-2 * 0.5 ** (3 - d) / (n + 1) for d in range(4)]
        )
        optimizer.step()
        schedule.step()


# --- override -----------------------------------------------------------------------------------------------------------------


def test_all_rules_that_hold_count_and_later_ones_win() -> None:
    model = Vit(2)
    found = groups.override(
        groups.no_decay(model, 0.1),
        {"*.bias": {"lr": 0.5, "tag": 1}, "head.*": {"lr": 0.25}, "blocks.?.attn.weight": {"weight_decay": 0.2}},
    )
    rates, decays, tags = (by_name(found, key) for key in ("lr", "weight_decay", "tag"))
    assert rates["blocks.0.attn.bias"] == 0.5 and rates["head.bias"] == 0.25 and rates["head.weight"] == 0.25
    assert rates["norm.weight"] is None and tags["head.bias"] == 1 and tags["head.weight"] is None
    assert decays["blocks.1.attn.weight"] == 0.2 and decays["head.weight"] == 0.1 and decays["head.bias"] == 0.0
    assert sorted(rates) == sorted(name for name, _ in model.named_parameters())


def test_rules_may_be_functions_tuples_and_pairs() -> None:
    def flat(name: str, p: Tensor) -> bool:
        return p.ndim == 1

    model = Vit(1)
    found = groups.override(model, [(flat, {"lr": 1.0}), (("head.*", "norm.*"), {"lr": 2.0}), ("head.*", {"lr": 3.0})])
    rates = by_name(found, "lr")
    assert rates["blocks.0.norm1.weight"] == 1.0 and rates["norm.bias"] == 2.0 and rates["head.bias"] == 3.0


def test_groups_are_split_and_never_joined() -> None:
    a, b, c = (("abc"[i], nn.Parameter(torch.ones(2))) for i in range(3))
    given = [{"params": [a, b], "lr": 1.0}, {"params": [c], "lr": 1.0}]
    assert [names(group) for group in groups.override(given, {"b": {"eps": 1e-6}})] == [["a"], ["b"], ["c"]]
    optimizer = AdamW(given)
    again = groups.override(optimizer.param_groups, {"c": {"lr": 0.5}})
    assert [names(group) for group in again] == [["a", "b"], ["c"]]
    assert AdamW(again).param_groups[1]["lr"] == 0.5 and again[0]["betas"] == (0.9, 0.999)


def test_tensors_as_options_stay_the_same_tensors() -> None:
    rate = torch.tensor(0.5)
    found = groups.override(Vit(1), {"*": {"lr": rate}})
    assert len(found) == 1 and found[0]["lr"] is rate


# --- errors -------------------------------------------------------------------------------------------------------------------

SMALL = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
WITHOUT: list[tuple[str, Tensor]] = []
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no such name": (
        lambda: groups.override(SMALL, {"0.wieght": {}}),
        ValueError,
        r"rule 0 \('0.wieght'\) holds for no parameter: did you mean '0.weight' or '1.weight'\?",
    ),
    "a part of names": (
        lambda: groups.override(SMALL, {"*": {}, "bias": {}}),
        ValueError,
        r"rule 1 \('bias'\) holds for no parameter: did you mean '\*bias\*', which holds for '0.bias' and 1 more\?",
    ),
    "nothing near": (
        lambda: groups.override(SMALL, {"encoder.*": {}}),
        ValueError,
        r"holds for no parameter: the names are '0.weight', '0.bias', '1.weight', '1.bias'$",
    ),
    "a function that holds for none": (
        lambda: groups.no_decay(SMALL, 0.1, also=lambda name, p: p.ndim > 7),
        ValueError,
        r"`also` \(<lambda>\) holds for no parameter",
    ),
    "one of several": (
        lambda: groups.no_decay(SMALL, 0.1, also=("0.*", "2.*")),
        ValueError,
        r"`also` \('2.\*'\) holds for no parameter",
    ),
    "an empty rule": (lambda: groups.override(SMALL, {(): {}}), ValueError, "rule 0 is an empty tuple, which holds for no"),
    "no rule": (lambda: groups.override(SMALL, {3: {}}), TypeError, "rule 0 must be a pattern, a function .* or a tuple"),
    "no pair": (lambda: groups.override(SMALL, ["0.*"]), TypeError, "rule 0 must be a pair .* not '0.\\*'"),  # type: ignore[list-item]
    "no options": (lambda: groups.override(SMALL, {"0.*": 0.1}), TypeError, "a dict of options"),  # type: ignore[arg-type]
    "no names": (lambda: groups.no_decay(SMALL.parameters(), 0.1), TypeError, "have no names: give the model or its named_par"),  # type: ignore[arg-type]
    "one tensor": (lambda: groups.no_decay(torch.ones(2), 0.1), TypeError, "not of one tensor"),
    "nothing": (lambda: groups.no_decay(WITHOUT, 0.1), ValueError, "there are no parameters to group"),
    "an empty model": (lambda: groups.no_decay(nn.ReLU(), 0.1), ValueError, "this ReLU has no parameters to group"),
    "no group": (lambda: groups.no_decay([{"lr": 1.0}], 0.1), TypeError, "group 0 must be a dict with `params`"),
    "twice": (
        lambda: groups.no_decay([{"params": [("a", SMALL[0].weight)]}, {"params": [("b", SMALL[0].weight)]}]),
        ValueError,
        "'b' stands twice in what is to be grouped, first as 'a'",
    ),
    "negative decay": (lambda: groups.no_decay(SMALL, -0.1), ValueError, r"weight_decay = -0.1, but it must be .* \[0, inf\)"),
    "all frozen": (
        lambda: groups.no_decay([("a", torch.ones(2))], 0.1),
        ValueError,
        "all parameters are frozen .* give frozen=True",
    ),
    "no blocks": (
        lambda: groups.layerwise(SMALL, 0.1),
        ValueError,
        r"no name has a numbered block such as 'blocks.3.' \('0.weight', '0.bias', '1.weight', …\): give depth=",
    ),
    "decay of 0": (lambda: groups.layerwise(Vit(), 0.1, 0.0), ValueError, r"decay = 0.0, but it must be a number in \(0, 1\]"),
    "no depth": (
        lambda: groups.layerwise(SMALL, 0.1, depth=lambda name: -1),
        ValueError,
        "the depth of '0.weight' is -1, but it must be a whole number of 0 or above",
    ),
    "decay of nothing": (lambda: groups.layerwise(Vit(), 0.1, also="*"), ValueError, "give a weight_decay as well"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_told(case: str) -> None:
    make, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        make()


def test_optimizers_name_the_group_that_is_wrong() -> None:
    found = groups.override(groups.no_decay(Vit(1), 0.1), {"head.*": {"lr": -1.0}})
    with pytest.raises(ValueError, match=r"AdamW: lr = -1.0, but it must be .* \(group 1: 'head.weight'\)"):
        AdamW(found)
    with pytest.raises(ValueError, match=r"AdamW: group 0 has 'weigth_decay': did you mean 'weight_decay'\?"):
        AdamW(groups.override(Vit(1), {"*": {"weigth_decay": 0.1}}))
    with pytest.raises(ValueError, match=r"lr = -1.0, but it must be a number in \[0, inf\)$"):
        AdamW(groups.no_decay(Vit(1), 0.1), lr=-1.0)
    assert AdamW(torch.optim.SGD([nn.Parameter(torch.ones(2))]).param_groups), "with what was another optimizer's"
    assert optc.create("adgd", torch.optim.SGD([nn.Parameter(torch.ones(2))], dampening=0.5).param_groups)
    optimizer = AdamW(groups.no_decay(Vit(1), 0.1))
    optimizer.param_groups[1]["eps"] = -1.0
    with pytest.raises(ValueError, match=r"eps = -1.0, .* \(group 1: 'cls_token', 'pos_embed', …\)"):
        optimizer.step()


def test_it_is_public_and_nothing_else_is_made_up() -> None:
    assert [getattr(optc.groups, name) for name in optc.groups.__all__] == [getattr(groups, name) for name in groups.__all__]
    with pytest.raises(AttributeError, match="module 'optc' has no attribute 'group'"):
        _ = optc.group  # type: ignore[attr-defined]
