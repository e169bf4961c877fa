"""The published JSON Schema of the report."""

from importlib.resources import files

NAME = "bench-3.schema.json"


def schema_text() -> str:
    """The schema's text; `ntre bench --schema` prints it."""
    return (files("ntre_deploy.bench.report") / NAME).read_text(encoding="utf-8")
