"""A kit by which every runtime of a bundle shows that it does what Python's does; docs/conformance.md is its format."""
