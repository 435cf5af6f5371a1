# SPDX-License-Identifier: MIT OR Apache-2.0
# program: python3
# role: server
# note: the parent makes the handshake, a forked child serves
# rules: R21
row() {
	cat >t.py <<-END
		import http.server, socketserver, sys
		sys.path.insert(0, "/matrix")
		import peer
		class Server(socketserver.ForkingMixIn, http.server.HTTPServer):
		    pass
		server = Server(("127.0.0.1", $P), peer.Handler)
		server.socket = peer.server_context("$v").wrap_socket(server.socket, server_side=True)
		server.serve_forever()
	END
	$SUBJECT python3 t.py & server=$!
	ready $P
	$CURL -o out/get https://localhost:$P/blob; status get $?
	$CURL -o out/post --data-binary @$BLOB https://localhost:$P/post; status post $?
	stop python $server
}
