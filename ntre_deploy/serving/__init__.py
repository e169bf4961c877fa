"""Bundles behind a network: what every server shares, and a room for each of them."""
