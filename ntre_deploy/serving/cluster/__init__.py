"""The HTTP application on Ray Serve: replicas on many machines, batches, and another bundle while requests come in."""
