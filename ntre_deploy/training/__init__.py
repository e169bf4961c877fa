"""Training and evaluation of NTRENet."""
