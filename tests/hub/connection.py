# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The loopback Hub's connections: request bodies, answers, ranges, faults on demand and the log of requests."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from hub.repository import Account, Refusal


class Request(NamedTuple):
    """A line of the log. `token` says whether the request carried one; `status` is "RESET" where the line was cut."""

    method: str
    path: str
    status: int | str
    range: str | None
    token: bool


class Fault:
    """What happens to the next `times` requests that match, after the first `after` of them."""

    def __init__(self, pattern, status=None, *, times=1, after=0, headers=None, reset=False, cut=None, delay=0.0):
        self.pattern, self.status, self.headers, self.reset = re.compile(pattern), status, headers or {}, reset
        self.times, self.after, self.cut, self.delay = times, after, cut, delay

    def strikes(self, line: str) -> bool:
        if self.times <= 0 or not self.pattern.search(line):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        return True


class Connection(BaseHTTPRequestHandler):
    """One connection: bodies, faults, ranges and the log."""

    protocol_version = "HTTP/1.1"
    # Otherwise each answer waits 40 ms for the acknowledgement of its headers.
    disable_nagle_algorithm = True
    hub = None
    routes = ()

    def log_message(self, *_) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def answer(self) -> None:
        hub, line = self.hub, f"{self.command} {self.path}"
        body = self._body()
        with hub.lock:
            hub.received.append(body)
            self.fault = next((fault for fault in hub.faults if fault.strikes(line)), None)
        if self.fault:
            time.sleep(self.fault.delay)
            if self.fault.reset:
                return self._reset()
            if self.fault.status:
                return self.send_json({"error": "fault on demand"}, self.fault.status, self.fault.headers)
        try:
            self.account = self._account()
            url = urlsplit(self.path)
            self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
            for methods, pattern, route in self.routes:
                match = pattern.fullmatch(url.path)
                if match and self.command in methods:
                    with hub.lock:
                        return route(self, body, **{k: unquote(v) for k, v in match.groupdict().items() if v})
            raise Refusal(404, f"This Hub knows no {self.command} {url.path}")
        except Refusal as refusal:
            self.send_json(refusal.fields, refusal.status, refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def _account(self) -> Account | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token and token not in self.hub.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.accounts.get(token)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _note(self, status: int | str) -> None:
        token = "Authorization" in self.headers
        self.hub.log.append(Request(self.command, self.path, status, self.headers.get("Range"), token))

    def _reset(self) -> None:
        self._note("RESET")
        # Lingering for no time makes close() send a reset instead of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        raise ConnectionResetError

    def send_bytes(self, content: bytes = b"", status: int = 200, headers=None) -> None:
        self._note(status)
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = None if self.fault is None else self.fault.cut
        self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True

    def send_json(self, content, status: int = 200, headers=None) -> None:
        self.send_bytes(json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def send_content(self, content: bytes, headers: dict) -> None:
        """Bytes, or the part of them that the client asked for."""
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if asked is None or asked.groups() == ("", ""):
            return self.send_bytes(content, 200, headers)
        size, (first, last) = len(content), asked.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= size:
            raise Refusal(416, "The range lies behind the end", headers={"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self.send_bytes(content[start:stop], 206, headers)
