"""A local S3 service with added latency: it serves the files of a folder and delays every answer.

It supports the requests that reading a store needs: GET of an object or of a range of it, and ListObjectsV2. A full S3 emulator
does far more work per request and could dominate the measurement.
"""

import asyncio
import contextlib
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

BUCKET = "bucket"


class S3Service:
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
        """Answers a client's requests until it disconnects."""
        task = asyncio.current_task()
        assert task is not None, "the server runs each connection in a task"
        self._clients[task] = writer
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
        keys = sorted(str(path.relative_to(self._folder)) for path in self._folder.rglob("*") if path.is_file())
        contents = [f"<Contents><Key>{escape(key)}</Key></Contents>" for key in keys if key.startswith(prefix)]
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(contents)}</ListBucketResult>".encode()


@contextlib.contextmanager
def serve_folder(folder: Path, *, latency_s: float) -> Iterator[str]:
    """Runs a service in a thread of this process; its bucket `BUCKET` holds the files of a folder as objects.

    Args:
        folder: folder to serve.
        latency_s: delay of every answer, in seconds.

    Returns:
        A context manager that gives the service's address.
    """
    service, ready = S3Service(folder, latency_s=latency_s), threading.Event()
    started: list = []

    async def serve() -> None:
        stop = asyncio.Event()
        async with await asyncio.start_server(service.connection, "127.0.0.1", 0) as server:
            started.extend((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()
            await service.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    ready.wait()
    port, loop, stop = started
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
