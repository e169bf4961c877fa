"""Plans for TensorRT and TensorRT for RTX, built from the bundle's own ONNX files.

`options.py` what a user may choose, `builder.py` ONNX to a plan, `progress.py` what a build says meanwhile,
`cache.py` plans that were built before, `turing.py` what one GPU lacks, `plans.py` the files of a bundle.
"""
