"""From a checked program to PyTorch, native C++ and Triton code."""
