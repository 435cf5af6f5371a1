# SPDX-License-Identifier: MIT OR Apache-2.0
"""http.server behind ssl: GET a file of the directory, POST and get it back.

http_server.py PORT CERT KEY VERSION; ends on SIGTERM with status 0.
"""
import hashlib
import http.server
import signal
import ssl
import sys
import threading

port, cert, key, version = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print("POST", len(body), hashlib.sha256(body).hexdigest(), flush=True)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
context.load_cert_chain(cert, key)
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
server.daemon_threads = False
server.socket = context.wrap_socket(server.socket, server_side=True)
# shutdown() waits for the loop, and the handler runs in the loop's thread.
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
