"""A local S3 service with added latency: a folder of files for reading, and a delay before every answer.

It knows what reading a store needs: GET of an object or of a range of it, and ListObjectsV2. A full stand-in for S3 does far more
per request, so that it, and not the reading, might be what is measured.
"""

import asyncio
import contextlib
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

BUCKET = "bucket"


class Service:
    """The service; see `serve_folder`."""

    def __init__(self, folder: Path, *, latency_s: float):
        self._folder, self._latency_s = folder, latency_s
        self._clients: dict[asyncio.Task, asyncio.StreamWriter] = {}

    async def close(self) -> None:
        """Ends all connections."""
        for writer in self._clients.values():
            writer.close()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one client's requests until it leaves."""
        self._clients[asyncio.current_task()] = writer
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                if self._latency_s:
                    await asyncio.sleep(self._latency_s)
                fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
                status, extra, body = self._answer(head[0].split(" ")[1], fields)
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def _answer(self, target: str, fields: dict[str, str]) -> tuple[str, str, bytes]:
        address = urllib.parse.urlsplit(target)
        key = urllib.parse.unquote(address.path).removeprefix(f"/{BUCKET}").lstrip("/")
        query = dict(urllib.parse.parse_qsl(address.query))
        if "list-type" in query:
            return "200 OK", "Content-Type: application/xml\r\n", self._listing(query.get("prefix", ""))
        path = self._folder / key
        if not path.is_file():
            return "404 Not Found", "", b"<Error><Code>NoSuchKey</Code></Error>"
        size, status, extra = path.stat().st_size, "200 OK", ""
        first, last = 0, size - 1
        if "range" in fields:
            begin, _, end = fields["range"].removeprefix("bytes=").partition("-")
            first, last = (int(begin), int(end or last)) if begin else (max(size - int(end), 0), last)
            last = min(last, size - 1)
            status, extra = "206 Partial Content", f"Content-Range: bytes {first}-{last}/{size}\r\n"
        with path.open("rb") as file:
            file.seek(first)
            return status, f'{extra}ETag: "{size}"\r\n', file.read(last - first + 1)

    def _listing(self, prefix: str) -> bytes:
        found = sorted(str(path.relative_to(self._folder)) for path in self._folder.rglob("*") if path.is_file())
        keys = [f"<Contents><Key>{escape(key)}</Key></Contents>" for key in found if key.startswith(prefix)]
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(keys)}</ListBucketResult>".encode()


@contextlib.contextmanager
def serve_folder(folder: Path, *, latency_s: float) -> Iterator[str]:
    """The address of a service for the bucket `BUCKET`, whose objects are the files of a folder, in a thread of this process.

    Args:
        folder: what is served.
        latency_s: added to every request.
    """
    service, ready = Service(folder, latency_s=latency_s), threading.Event()
    found: list = []

    async def serve() -> None:
        stop = asyncio.Event()
        async with await asyncio.start_server(service.connection, "127.0.0.1", 0) as server:
            found.extend((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()
            await service.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    ready.wait()
    port, loop, stop = found
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
