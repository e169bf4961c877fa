"""Who may ask: a key where there are any, and else nobody but programs and pages of this machine."""

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from ntre_deploy.serving.http.settings import Settings

# what a balancer asks without a key, and whether it can be asked while the server ends
PROBES = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
# what holds nothing of this server
OPEN = (*PROBES, "/", "/docs", "/openapi.json")
# answered to the last
LASTING = (*OPEN, "/metrics")
_PORT = re.compile(r":\d{1,5}$")


def refusal(headers: Headers, path: str, settings: Settings) -> tuple[int, str] | None:
    """Status and line for a request that may not be made; None for others.

    Without keys, the names that the server goes by keep out a foreign one that resolves to 127.0.0.1 (DNS rebinding),
    and what browsers say of the page that asks keeps out other sites; programs say nothing of it.
    """
    if settings.hosts:
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or _PORT.sub("", hosts[0].lower()) not in settings.hosts:
            return 421, f"This server answers to {' and '.join(settings.hosts)} only; other names need an API key."
        if any(urlsplit(origin).netloc != hosts[0] for origin in origins):
            return 403, "Pages of other sites may not ask this server."
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "Pages of other sites may not ask this server."
    if settings.keys and path not in OPEN:
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        if not given:
            return 401, "An API key is needed: `Authorization: Bearer KEY`, or `X-Api-Key: KEY`."
        if not settings.keys.known(given):
            return 401, "The API key is not known here."
    return None
