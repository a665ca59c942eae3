"""How fast, how small, how quick to start: measured against memory floors and other libraries.

`python -m benchmarks` runs everything for the CPU, `python -m benchmarks.gpu` what needs a CUDA device; see README.md.
"""
