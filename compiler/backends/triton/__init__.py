"""Plans as Triton kernels: one launch per pass for all tensors, and the host program on the device."""
