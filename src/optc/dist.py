"""Training on many processes: ZeRO stages 1, 2 and 3, checkpoints for any number of processes, and what they tell each other.

    model = optc.dist.shard(model, stage=3)                 # FSDP2, set up as ZeRO
    optimizer = optc.create("LAMB", model, lr=2e-3)         # any optimizer, unchanged
    optc.dist.save("checkpoints", optimizer, model)
    optc.dist.load("checkpoints", optimizer, model)         # on 2 processes or 8, divided or whole

    model = DistributedDataParallel(model)                  # or: a model that is whole on every process
    optimizer = optc.create("AdamW", model)
    optc.dist.Zero1(optimizer)                              # divides the optimizer's work and state

    optc.dist.compare(optimizer, every=100)                 # while debugging: do all processes do the same?

The command `optc explain SPEC --sharding` shows what an optimizer sends. See docs/distributed.md.
"""

from optc.runtime.agreement import compare
from optc.runtime.engine import microbatch, shard
from optc.runtime.gathering import full_state_dict
from optc.runtime.saved_fitting import Loaded
from optc.runtime.saving import latest, load, save
from optc.runtime.zero1 import Zero1

__all__ = ["Loaded", "Zero1", "compare", "full_state_dict", "latest", "load", "microbatch", "save", "shard"]
