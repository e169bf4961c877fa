"""One studio: its session, its pictures, its network, and the two threads that work for it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ntre_deploy.errors import NtreError
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.studio.network import Network
from ntre_deploy.studio.photos import Pictures
from ntre_deploy.studio.session import Session
from ntre_deploy.studio.webfiles import WebFiles
from ntre_deploy.studio.worker import Worker


class Studio:
    """What the handlers work on.

    Args:
        bundle: folder of the bundle, for what is told of it.
        load: opens it.
        skipped: names of files that were left out, with the reason.
        warn: tells what is to be said of a model of that origin, or None.
        web: what the page needs to run the bundle by itself; None where that was not asked for.
    """

    def __init__(
        self,
        bundle: Path,
        load: Callable[[], Segmenter],
        session: Session,
        skipped: Sequence[tuple[str, str]] = (),
        warn: Callable[[Mapping[str, Any]], str | None] = lambda origin: None,
        web: WebFiles | None = None,
    ) -> None:
        self.bundle = bundle
        self.session = session
        self.pictures = Pictures()
        self.network = Network(load, session, self.pictures)
        self.worker = Worker("engine")
        # GrabCut needs no engine, and a person waits for it
        self.hand = Worker("grabcut")
        self.web = web
        self._skipped = list(skipped)
        self._warn = warn
        self._engine: dict[str, Any] = {"state": "loading"}

    def load(self) -> str | None:
        """Load the bundle, on the engine's thread; what fails is told on the page, which works on without.

        Returns:
            what went wrong; None where nothing did.
        """
        try:
            segmenter = self.network.segmenter
        except NtreError as error:
            return self._failed(str(error))
        except Exception as error:  # a defect, which is told like the rest: the thread has no one else to tell it to
            return self._failed(f"internal error: {type(error).__name__}: {error}.")
        self._engine = {
            "state": "ready",
            "reason": segmenter.reason,
            "note": self._warn(segmenter.model.origin),
        }
        return None

    def _failed(self, why: str) -> str:
        self._engine = {"state": "failed", "error": why}
        return why

    def close(self) -> None:
        """End both threads."""
        self.worker.close()
        self.hand.close()

    def content(self) -> dict[str, Any]:
        """All that the page begins with, for JSON."""
        skipped = [{"name": name, "reason": reason} for name, reason in self._skipped]
        web = None if self.web is None else self.web.settings(self._warn)
        more = {"bundle": self.bundle.name, "engine": self._engine, "skipped": skipped, "web": web}
        return self.session.content() | more
