# SPDX-License-Identifier: MIT OR Apache-2.0
"""The other end of a row's connections, never with the shim.

peer.py http PORT [VERSION]   answers GET with the blob, POST and PUT with what they sent
peer.py echo PORT [VERSION]   sends back what it receives
peer.py talk PORT VERSION     sends the blob, and writes what comes back to stdout
peer.py idle PORT VERSION WAY is a slow client, and prints the subject's ticks of CPU meanwhile
"""

import glob
import hashlib
import os
import socket
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOB = open("/matrix/blob", "rb").read()


def version(text):
    return {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[text]


def server_context(text):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("/matrix/cert.pem", "/matrix/key.pem")
    context.minimum_version = context.maximum_version = version(text)
    return context


def client_context(text):
    context = ssl.create_default_context(cafile="/matrix/cert.pem")
    context.minimum_version = context.maximum_version = version(text)
    return context


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        self.answer(BLOB)

    do_HEAD = do_GET

    def do_POST(self):
        self.answer(self.body())

    do_PUT = do_POST

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def shutdown_request(self, request):
        # In order, but a client that is gone needs no close_notify.
        try:
            request.settimeout(5)
            request.unwrap()
        except (AttributeError, OSError, ValueError):
            pass
        super().shutdown_request(request)


def http(port, tls=None):
    server = Server(("127.0.0.1", port), Handler)
    if tls:
        # The handshake in the connection's thread: a silent client must not stop the others.
        server.socket = server_context(tls).wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    server.serve_forever()


def echo(port, tls=None):
    context = server_context(tls) if tls else None
    listener = socket.create_server(("127.0.0.1", port))

    def serve(conn):
        try:
            if context:
                conn = context.wrap_socket(conn, server_side=True)
            while data := conn.recv(65536):
                conn.sendall(data)
            if context:
                conn.unwrap()
        except OSError:
            pass
        conn.close()

    while True:
        conn, _ = listener.accept()
        threading.Thread(target=serve, args=(conn,), daemon=True).start()


def talk(port, tls):
    """In turns of 64 KiB, so that an echo in one thread cannot block."""
    raw = socket.create_connection(("127.0.0.1", port))
    conn = client_context(tls).wrap_socket(raw, server_hostname="localhost")
    got = 0
    for at in range(0, len(BLOB), 65536):
        part = BLOB[at : at + 65536]
        conn.sendall(part)
        got += len(part)
        while part:
            back = conn.recv(len(part))
            if not back:
                sys.exit("the other end closed early")
            sys.stdout.buffer.write(back)
            part = part[len(back) :]
    sys.stdout.flush()
    conn.unwrap().close()


def subject_ticks():
    """By process: one that ends takes its ticks along."""
    ticks = {}
    mark = b"MATRIX_SUBJECT=" + os.environ["MATRIX_ROW"].encode()
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            if mark in open(path, "rb").read().split(b"\0"):
                stat = open(path.replace("environ", "stat")).read().rsplit(") ")[-1].split()
                ticks[path] = int(stat[11]) + int(stat[12])
        except OSError:
            pass
    return ticks


def idle(port, tls, way):
    """Half a request, and later the rest; then an answer that is not read for a while."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    raw.connect(("127.0.0.1", port))
    conn = client_context(tls).wrap_socket(raw, server_hostname="localhost")
    request = b"GET /blob HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    if way == "echo":
        request = BLOB[:400000]
    ticks = 0

    def pause():
        nonlocal ticks
        time.sleep(0.3)
        before = subject_ticks()
        time.sleep(1.0)
        after = subject_ticks()
        ticks += sum(after[p] - before.get(p, 0) for p in after)

    conn.sendall(request[:20])
    pause()
    conn.sendall(request[20:] if way == "http" else request[20:40])
    if way == "http":
        pause()
        got = bytearray()
        while True:
            try:
                part = conn.recv(65536)
            except ssl.SSLEOFError:
                break
            if not part:
                break
            got += part
        body = bytes(got).split(b"\r\n\r\n", 1)[1]
        whole = hashlib.sha256(body).digest() == hashlib.sha256(BLOB).digest()
        print(ticks, "whole" if whole else f"{len(body)} bytes that differ")
    else:
        print(ticks, "whole")
    conn.close()


if __name__ == "__main__":
    _, what, where, *rest = sys.argv
    globals()[what](int(where), *rest)
