"""What comes from torchvision: the package itself, and downloads that end in a file or in one clear line.

torchvision holds compiled operators for one version of torch, and beside another one it does not import.
"""

import importlib
import io
import socket
import ssl
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from http.client import HTTPException
from types import ModuleType
from urllib.error import HTTPError, URLError

from ntre_deploy.errors import EngineError

# the pair of constraints-torchvision.txt, which CI runs with
PAIR = "torch==2.14.1 torchvision==0.29.1"

# seconds without a byte; neither torch nor torchvision sets a limit of its own
_PATIENCE = 60.0
# no OSError beyond these: a full disk is no failure of the network
_BROKEN_OFF = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
# torch and torchvision raise RuntimeError where a download has another checksum
_DAMAGED = (RuntimeError, RecursionError, tarfile.TarError, EOFError, zlib.error)


def torchvision(name: str = "") -> ModuleType:
    """torchvision, or its module `name` such as `datasets`.

    Raises:
        EngineError: it is not installed, or does not import beside this torch.
    """
    try:
        return importlib.import_module(f"torchvision.{name}" if name else "torchvision")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torchvision":
            raise
        raise EngineError(
            f"This needs torchvision, which is not installed; it goes with one version of torch: pip install {PAIR}"
        ) from error
    # what a foreign build leads to: RuntimeError (no operator), OSError (no symbol), AttributeError ...
    except Exception as error:
        raise EngineError(
            f"torchvision does not import beside torch {importlib.import_module('torch').__version__} "
            f"({_reason(error)}); install versions that match: pip install {PAIR}"
        ) from error


@contextmanager
def downloading(what: str, advice: str) -> Iterator[None]:
    """Turn what stops a download into one line; progress goes to stderr, and only where that is a terminal.

    Raises:
        EngineError: the network, the server or the content failed; the line ends with `advice`.
    """
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        with ExitStack() as stack:
            if not sys.stderr.isatty():
                stack.enter_context(redirect_stderr(io.StringIO()))
            # stdout is for results, and torch's remarks are none
            stack.enter_context(redirect_stdout(sys.stderr))
            yield
    except _BROKEN_OFF as error:
        raise EngineError(f"{what} cannot be downloaded: {_reason(error)}. {advice}") from error
    except _DAMAGED as error:
        raise EngineError(f"{what} came damaged or cut off: {_reason(error)}. {advice}") from error
    finally:
        socket.setdefaulttimeout(patience)


def _reason(error: BaseException) -> str:
    # the reason of an HTTPError is without its number
    cause = error if isinstance(error, HTTPError) else getattr(error, "reason", None) or error
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return str(text).splitlines()[0].rstrip(".")
