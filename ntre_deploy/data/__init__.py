"""Images, datasets and episodes; needs neither torch nor an engine."""
