"""What a bench run tells: JSON for machines, tables for terminals, a page for people."""

from ntre_deploy.bench.report.build import Run, build_report
from ntre_deploy.bench.report.files import has_jinja, write_report
from ntre_deploy.bench.report.schema import schema_text
from ntre_deploy.bench.report.tables import costs, table, title, ways

__all__ = ["Run", "build_report", "costs", "has_jinja", "schema_text", "table", "title", "ways", "write_report"]
