# SPDX-License-Identifier: MIT OR Apache-2.0
"""urllib against http_server.py: prints what it got, in digests.

http_client.py PORT CA NAME...; then one POST of 300,001 bytes.
"""
import hashlib
import ssl
import sys
import urllib.request

port, ca = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=ca)
base = f"https://localhost:{port}/"
for name in sys.argv[3:]:
    with urllib.request.urlopen(base + name, context=context, timeout=60) as answer:
        body = answer.read()
        print("GET", name, answer.status, len(body), hashlib.sha256(body).hexdigest())
body = bytes(i * 7 % 251 for i in range(300_001))
request = urllib.request.Request(base + "post", data=body, method="POST")
with urllib.request.urlopen(request, context=context, timeout=60) as answer:
    print("POST", answer.status, answer.read() == body)
