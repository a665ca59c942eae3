"""One emitter per kind of code, from the same plan."""
