"""Photos and videos in, results for people and machines out: what `ntre segment` does behind its options."""
