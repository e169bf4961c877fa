"""The load generator `hey`: many clients at once, each of which asks again as soon as it is answered."""

import csv
import io
import math
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bodies import Body

from ntre_deploy.errors import EngineError

# of a request, in seconds
PATIENCE = 120
# beyond what a run is meant to take
_GRACE = 300


@dataclass(frozen=True)
class Row:
    """A request that was answered.

    Attributes:
        begun: seconds since the run began.
        seconds: until the answer was read.
        status: of the answer.
    """

    begun: float
    seconds: float
    status: int


@dataclass(frozen=True)
class Load:
    """What a run has found.

    Attributes:
        rows: the answers; requests that broke are not among them.
        asked: requests that were to be made; None where the time ended the run.
    """

    rows: Sequence[Row]
    asked: int | None

    @property
    def statuses(self) -> dict[str, int]:
        """How many answers of each status."""
        return {str(status): count for status, count in sorted(Counter(row.status for row in self.rows).items())}

    @property
    def broken(self) -> int:
        """Requests without an answer, where their number was given."""
        return 0 if self.asked is None else self.asked - len(self.rows)

    @property
    def seconds(self) -> float:
        """From the first request to the last answer."""
        if not self.rows:
            return math.nan
        return max(row.begun + row.seconds for row in self.rows) - min(row.begun for row in self.rows)

    def times(self, status: int = 200) -> list[float]:
        """Seconds of the answers of a status, in order of size."""
        return sorted(row.seconds for row in self.rows if row.status == status)

    def rate(self, status: int | None = 200) -> float:
        """Answers of a status a second; of all with None."""
        count = sum(row.status == status or status is None for row in self.rows)
        return count / self.seconds if count else 0.0


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that a share of the ordered ones does not exceed; NaN of none."""
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def need_hey() -> str:
    """The version of `hey`, as well as it can be told.

    Raises:
        EngineError: it is not installed.
    """
    if shutil.which("hey") is None:
        raise EngineError("The load generator hey is not installed: apt-get install hey (or go install, or brew).")
    if shutil.which("dpkg-query") is None:
        return "unknown"
    shown = subprocess.run(["dpkg-query", "-W", "-f${Version}", "hey"], capture_output=True, text=True, check=False)
    return shown.stdout or "unknown"


def drive(
    address: str,
    body: Body,
    folder: Path,
    *,
    clients: int,
    count: int | None = None,
    seconds: float | None = None,
    each: float | None = None,
) -> Load:
    """Post a body again and again, over connections that are kept.

    Args:
        address: `http://HOST:PORT`.
        folder: for the body's file.
        count: requests in all, at least one of each client; or
        seconds: in which requests are begun.
        each: requests a second that a client makes at most.

    Raises:
        EngineError: hey failed, or did not end.
    """
    file = folder / "body.bin"
    file.write_bytes(body.data)
    # the same number of each client: what is left over hey would leave out
    asked = None if count is None else max(1, count // clients) * clients
    command = ["hey", "-o", "csv", "-c", str(clients), "-t", str(PATIENCE), "-m", "POST", "-T", body.kind]
    # Triton would pack its answers otherwise
    command += ["-D", str(file), "-disable-compression"]
    command += ["-z", f"{seconds}s"] if asked is None else ["-n", str(asked)]
    if each is not None:
        command += ["-q", f"{each:g}"]
    for name, value in body.headers.items():
        command += ["-H", f"{name}: {value}"]
    limit = _GRACE + PATIENCE + (seconds or 0.0) + (asked or 0)
    try:
        done = subprocess.run(
            [*command, address + body.path],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            # a run comes to its end where Ctrl-C is held back
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"hey did not end within {limit:.0f} s.") from error
    if done.returncode != 0:
        raise EngineError(f"hey failed: {' '.join((done.stderr or done.stdout).split())[:300]}")
    return Load(read(done.stdout), asked)


def read(text: str) -> list[Row]:
    """The rows of hey's CSV."""
    return [
        Row(float(row["offset"]), float(row["response-time"]), int(row["status-code"]))
        for row in csv.DictReader(io.StringIO(text))
    ]
