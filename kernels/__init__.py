"""CUDA kernels of the deployed pipeline, their launcher and NumPy references; needs no torch.

cuda/         the sources: prepare (pre-processing), labels (post-processing), prior (eq. 5), pooling (eq. 7 and 8)
ptx/          what `build` makes of them; the package carries it, so that no compiler is needed
launch        checks sizes and launches on a stream, given device pointers, over any driver
driver        the CUDA driver API through cuda-python (extra `cuda`)
reference     the same arithmetic in NumPy

The tests run these sources on the CPU, thread by thread, and compare them with NumPy and PyTorch.  They have not run on
a GPU yet.  A kernel belongs into the runtime only where it beats what the engine does by itself, measured
(`benchmarks/kernels`); none has been measured, so nothing calls them.
"""
