"""Triton: a model repository of a bundle, and what runs inside the server's Python backend."""
