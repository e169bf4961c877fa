"""A model tuned on a user's own photos: some are held out, and the result is kept only if it is better on these."""
