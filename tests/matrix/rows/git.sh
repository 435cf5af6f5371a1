# SPDX-License-Identifier: MIT OR Apache-2.0
# program: git
# role: client
# note: clone over https; linked with GnuTLS
# rules: R1
# outside: no OpenSSL in the program (GnuTLS)
row() {
	export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE="1700000000 +0000" GIT_COMMITTER_DATE="1700000000 +0000"
	export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a
	git init -q r 2>/dev/null && cp $BLOB r/blob && git -C r add blob && git -C r commit -q -m x && git -C r update-server-info
	cat >t.py <<-END
		import functools, http.server, sys
		sys.path.insert(0, "/matrix")
		import peer
		handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="$W/r")
		server = http.server.ThreadingHTTPServer(("127.0.0.1", $P), handler)
		server.socket = peer.server_context("$v").wrap_socket(server.socket, server_side=True)
		server.serve_forever()
	END
	python3 t.py 2>err & peer=$!
	ready $P
	$SUBJECT git -c http.sslCAInfo=$CERT clone -q https://localhost:$P/.git c; status clone $?
	cp c/blob out/
	kill $peer
}
