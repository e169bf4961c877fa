"""Bundles behind HTTP: FastAPI, the open inference protocol, and plain requests with photos.

`ntre_deploy.serving.http.application.create_app` makes the application; `ntre serve` runs it.
"""
