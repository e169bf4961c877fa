"""The exporter: the training graph rewritten for deployment, as ONNX, verified, packed into a bundle.

One file per rewrite; `graph.py` puts them together into the `support` and `query` graphs.
"""
