# SPDX-License-Identifier: MIT OR Apache-2.0
"""TLS, then close_notify both ways, then clear text on the same socket.

clear_after.py server PORT CERT KEY VERSION FIRST | client PORT CA FIRST, where
FIRST names the side that begins to close.
"""
import socket
import ssl
import sys

me, port = sys.argv[1], int(sys.argv[2])
first = sys.argv[-1]


def line(stream, text=None):
    """Sends a line, or receives one byte by byte and returns it."""
    if text is not None:
        stream.sendall(text.encode() + b"\n")
        return None
    got = b""
    while not got.endswith(b"\n"):
        piece = stream.recv(1)
        if not piece:
            return got.decode() + "<end>"
        got += piece
    return got.decode().strip()


if me == "server":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, sys.argv[5])
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    listener = socket.create_server(("127.0.0.1", port))
    raw, _ = listener.accept()
else:
    context = ssl.create_default_context(cafile=sys.argv[3])
    raw = socket.create_connection(("127.0.0.1", port))
raw.settimeout(60)

# Clear text before TLS, as after STARTTLS.
line(raw, f"clear before from {me}")
print(line(raw))
tls = context.wrap_socket(raw, server_side=me == "server", server_hostname="localhost" if me == "client" else None)
for turn in range(3):
    if me == "client":
        line(tls, f"secret {turn} from client")
        print(line(tls))
    else:
        print(line(tls))
        line(tls, f"secret {turn} from server")
if me != first:
    print("peer closes:", tls.recv(10))
raw = tls.unwrap()
for turn in range(3):
    line(raw, f"clear {turn} after from {me}")
    print(line(raw))
raw.close()
print("done")
