"""Latency and parity of a bundle's engines against PyTorch, on the same episodes in the same run."""
