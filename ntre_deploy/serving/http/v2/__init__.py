"""The open inference protocol (v2) over HTTP, with the extension for binary tensors: what Triton's and KServe's clients speak."""
