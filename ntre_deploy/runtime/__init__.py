"""The runtime: bundles, engines and the `Segmenter`; imports neither torch nor onnx."""
