# SPDX-License-Identifier: MIT OR Apache-2.0
"""A TLS client over memory BIOs that decides which records share a segment.

coalesce.py PORT CA VERSION TEST
finished  the Finished and two records of a POST in one send; in TLS 1.2 the
          client's Finished is the last only when a session is resumed
pipeline  nine GETs in one record
records   nine GETs in nine records, in one send
dribble   nine GETs in nine records, seven bytes at a time
Prints the answers' bodies in digests.
"""
import hashlib
import socket
import ssl
import sys
import time

port, ca, version, test = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)


class Client:
    def __init__(self, session=None):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost", session=session)
        while True:
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self.flush()
                self.fill()

    def fill(self):
        data = self.socket.recv(65536)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    def flush(self):
        data = self.outgoing.read()
        if data:
            self.socket.sendall(data)

    def read(self):
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                self.flush()
                self.fill()
            except ssl.SSLZeroReturnError:
                return b""

    def answers(self, count):
        data = b""
        for _ in range(count):
            while b"\r\n\r\n" not in data:
                piece = self.read()
                assert piece, data
                data += piece
            head, data = data.split(b"\r\n\r\n", 1)
            status = head.split(b" ")[1].decode()
            length = int([l for l in head.split(b"\r\n") if l.lower().startswith(b"content-length:")][0].split(b":")[1])
            while len(data) < length:
                piece = self.read()
                assert piece
                data += piece
            print(status, length, hashlib.sha256(data[:length]).hexdigest())
            data = data[length:]
        assert data == b"", data

    def close(self):
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()
        while self.socket.recv(65536):
            pass
        self.socket.close()


def get(name):
    return f"GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


session = None
if test == "finished" and version == "TLSv1_2":
    client = Client()
    client.flush()
    client.tls.write(get("1"))
    client.flush()
    client.answers(1)
    session = client.tls.session
    client.close()
client = Client(session)
if test == "finished":
    assert client.tls.session_reused == (session is not None)
    # Whatever the handshake still has to say waits in `outgoing` for these.
    assert client.outgoing.pending
    body = bytes(i * 11 % 253 for i in range(20_000))
    head = f"POST /post HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    client.tls.write(head + body[:9_000])
    client.tls.write(body[9_000:])
    client.flush()
    client.answers(1)
else:
    client.flush()
    names = ["1", "16385", "0", "100", "16384", "1", "40000", "16383", "1"]
    if test == "pipeline":
        client.tls.write(b"".join(get(name) for name in names))
        client.flush()
    else:
        for name in names:
            client.tls.write(get(name))
        if test == "records":
            client.flush()
        else:
            data = client.outgoing.read()
            for at in range(0, len(data), 7):
                client.socket.sendall(data[at : at + 7])
                time.sleep(0.001)
    client.answers(len(names))
client.close()
print("done")
