"""Modifiers and compositions: from what is written to one optimizer that is written out, before the checker."""
