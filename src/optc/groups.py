"""Parameter groups from models, for any torch optimizer: no decay for biases and norms, layer-wise rates, patterns of names."""

from __future__ import annotations

from optc.runtime.groups import Depth, Group, Params, Rule, Rules, layerwise, no_decay, override

__all__ = ["Depth", "Group", "Params", "Rule", "Rules", "layerwise", "no_decay", "override"]
