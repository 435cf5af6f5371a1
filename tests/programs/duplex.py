# SPDX-License-Identifier: MIT OR Apache-2.0
"""Megabytes both ways at once over one connection, and every byte is checked.

duplex.py server PORT CERT KEY VERSION STYLE MB | client PORT CA STYLE MB
poll     one thread, non-blocking, poll()
threads  a thread that writes and one that reads, on one SSL object
down     blocking; only the server sends
up       blocking; only the client sends
"""
import random
import select
import socket
import ssl
import sys
import threading
import time

me, port = sys.argv[1], int(sys.argv[2])
style, total = sys.argv[-2], int(sys.argv[-1]) << 20

# A pattern whose period (a prime) shares nothing with records or buffers.
PERIOD = 1_048_573
block = random.Random(1).randbytes(PERIOD)
pattern = memoryview(block + block)
SEND, RECEIVE = 300_000, 200_000  # bytes per call; not into what follows the bulk

if me == "server":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, sys.argv[5])
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    listener = socket.create_server(("127.0.0.1", port))
    raw, _ = listener.accept()
    tls = context.wrap_socket(raw, server_side=True)
else:
    context = ssl.create_default_context(cafile=sys.argv[3])
    raw = socket.create_connection(("127.0.0.1", port))
    tls = context.wrap_socket(raw, server_hostname="localhost")
tls.settimeout(60)
sends = style in ("poll", "threads") or (style == "down") == (me == "server")
receives = style in ("poll", "threads") or not sends
sent = 0 if sends else total
received = 0 if receives else total
buffer = bytearray(RECEIVE)
view = memoryview(buffer)


def chunk():
    at = sent % PERIOD
    return pattern[at : at + min(SEND, total - sent)]


def took(n):
    global received
    assert n > 0, f"end of file after {received}"
    at = received % PERIOD
    assert view[:n] == pattern[at : at + n], f"wrong bytes in {received}..{received + n}"
    received += n


def write_all():
    global sent
    while sent < total:
        sent += tls.send(chunk())


def read_all():
    while received < total:
        took(tls.recv_into(view[: min(RECEIVE, total - received)]))


if style == "poll":
    tls.setblocking(False)
    poller = select.poll()
    deadline = time.monotonic() + 120
    piece = None
    while sent < total or received < total:
        assert time.monotonic() < deadline, f"stalled: sent {sent}, received {received}"
        want = 0
        if received < total:
            try:
                while received < total:
                    took(tls.recv_into(view[: min(RECEIVE, total - received)]))
            except ssl.SSLWantReadError:
                want |= select.POLLIN
            except ssl.SSLWantWriteError:
                want |= select.POLLOUT
        if sent < total:
            # A write that could not be done is repeated with the same bytes.
            piece = piece or chunk()
            try:
                sent += tls.send(piece)
                piece = None
                continue
            except ssl.SSLWantWriteError:
                want |= select.POLLOUT
            except ssl.SSLWantReadError:
                want |= select.POLLIN
        if want:
            poller.register(tls, want)
            assert poller.poll(60_000), f"stalled: sent {sent}, received {received}"
    tls.settimeout(60)
elif style == "threads":
    failed = []

    def reader():
        try:
            read_all()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=reader)
    thread.start()
    write_all()
    thread.join()
    if failed:
        raise failed[0]
else:
    write_all()
    read_all()

# A last word each way proves that neither direction is out of step.
if me == "client":
    tls.sendall(b"bye\n")
    print(tls.recv(100))
else:
    print(tls.recv(100))
    tls.sendall(b"bye, bye\n")
try:
    tls.unwrap()
except (ssl.SSLError, OSError) as error:
    print("unwrap:", type(error).__name__)
print("sent", sent, "received", received)
