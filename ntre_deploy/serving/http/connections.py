"""Connections whose requests have to begin in time and with heads of a moderate size."""

import asyncio

_HEAD_BYTES, _HEAD_SECONDS = 65_536, 20.0


def protocol() -> "type[asyncio.Protocol] | str":
    """What uvicorn speaks HTTP with: httptools with limits, or h11, which keeps heads small by itself."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ModuleNotFoundError:
        return "h11"

    class LimitedHead(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _head = 0
        _in_head = True

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._begin()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_head:
                self._head += len(data)
                if self._head > _HEAD_BYTES:
                    self._refuse(b"431 Request Header Fields Too Large")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._stop()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _begin(self) -> None:
            self._in_head, self._head = True, 0
            if self._timer is None:
                self._timer = self.loop.call_later(_HEAD_SECONDS, self._refuse, b"408 Request Timeout")

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _refuse(self, status: bytes) -> None:
            self._stop()
            if not self.transport.is_closing():
                # one that has sent nothing has asked nothing
                if self._head:
                    self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                self.transport.close()

    return LimitedHead
