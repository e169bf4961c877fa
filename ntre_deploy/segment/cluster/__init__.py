"""`ntre segment --ray`: photos by the million on a cluster, with results that a kill leaves whole."""
