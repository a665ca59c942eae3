"""The spec language: text, syntax tree, types and checked programs."""
