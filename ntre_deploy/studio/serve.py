"""The server of the studio: one socket on 127.0.0.1, until Ctrl-C."""

import socket
import threading
import webbrowser
from collections.abc import Callable

import uvicorn

from ntre_deploy.errors import InputError
from ntre_deploy.studio.api import Api
from ntre_deploy.studio.guard import Guard
from ntre_deploy.studio.studio import Studio

HOST = "127.0.0.1"
# a page that is left open finds a server that came back where it was
USUAL_PORT = 8377
# seconds for requests that are under way when the server ends
_PATIENCE = 2


def listen(port: int | None) -> socket.socket:
    """A socket on 127.0.0.1: on `port`, or without one on the usual port or, where that is taken, on any.

    Raises:
        InputError: the port that was asked for cannot be had.
    """
    for wanted in (USUAL_PORT, 0) if port is None else (port,):
        # with the protocol named, asyncio sends at once (TCP_NODELAY); else answers wait 40 ms for an acknowledgement
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, wanted))
        except OSError as error:
            listening.close()
            if port is not None:
                raise InputError(
                    f"Port {port} of {HOST} cannot be had: {error.strerror}; give another --port, or none."
                ) from error
            continue
        listening.listen(128)
        return listening
    raise InputError(f"No port of {HOST} can be had; give one with --port.")


def serve(studio: Studio, listening: socket.socket, token: str, *, browser: bool, tell: Callable[[str], None]) -> None:
    """Serve the page until SIGINT or SIGTERM, which end this function as if it were done.

    Args:
        listening: of `listen`; closed at the end.
        token: of `Session.token`.
        browser: open the user's browser.
        tell: takes lines for the user.
    """
    port = listening.getsockname()[1]
    # behind #, it reaches neither logs nor other pages
    address = f"http://{HOST}:{port}/#token={token}"
    app = Guard(Api(studio).app(), token, port)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=_PATIENCE,
    )

    def loaded() -> None:
        if (failed := studio.load()) is not None:
            tell(f"warning: {failed} The page works on without the network.")

    studio.worker.submit("load", loaded, 0)
    tell(f"the studio is at {address}")
    tell("Ctrl-C ends it; what was marked stays in the session's folder")
    if browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn hands on the signal that ended it
        pass
    finally:
        studio.close()
        listening.close()
