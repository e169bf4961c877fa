"""Plans for TensorRT and TensorRT for RTX, built from the ONNX files of a bundle, without torch and onnx.

`options.py` what a user may choose, `builder.py` ONNX to a plan, `progress.py` what a build says meanwhile,
`cache.py` plans that were built before, `turing.py` what one GPU lacks, `files.py` the plan files of both graphs,
`addition.py` plans into a bundle that is there.
"""
