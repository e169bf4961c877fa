"""The open inference protocol (v2) over HTTP, with binary tensors: what clients of Triton and KServe speak."""
