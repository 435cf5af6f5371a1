# SPDX-License-Identifier: MIT OR Apache-2.0
# program: openssl
# role: server
# note: s_server -rev: through a BIO of type SSL too
# rules: R11
# outside: `ssl-bio`
row() {
	cat >t.py <<-END
		import socket, ssl, sys
		sys.path.insert(0, "/matrix")
		import peer
		conn = peer.client_context("$v").wrap_socket(socket.create_connection(("127.0.0.1", $P)), server_hostname="localhost")
		for at in range(0, len(peer.BLOB), 8000):
		    line = peer.BLOB[at:at + 8000] + b"\n"
		    conn.sendall(line)
		    while line:
		        back = conn.recv(len(line))
		        assert back, "closed early"
		        sys.stdout.buffer.write(back)
		        line = line[len(back):]
		conn.unwrap()
	END
	$SUBJECT openssl s_server -accept 127.0.0.1:$P -cert $CERT -key $KEY -rev -tls$V_ >o 2>err & server=$!
	ready $P
	python3 t.py >out/rev; status talk $?
	stop s_server $server
}
