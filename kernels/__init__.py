"""CUDA kernels of the deployed pipeline, their launcher and NumPy references; needs no torch.

cuda/         the sources: prepare (pre-processing) and labels (post-processing)
ptx/          what `build` makes of them; the package carries it, so that no compiler is needed
sources       where both lie
launch        checks sizes and launches on a stream, given device pointers, over any driver (`runtime.cuda` is one)
reference     the same arithmetic in NumPy

The tests run these sources on the CPU, thread by thread, and compare them with NumPy and PyTorch; on a GPU, where there
is one, the same tests run there.  They have not run on one yet.  A kernel belongs into the runtime only where it beats
what is there without it, measured (`benchmarks/kernels`, `benchmarks/gpu`).  None has been measured, so they run
only where they are asked for (`device_images`).
"""
