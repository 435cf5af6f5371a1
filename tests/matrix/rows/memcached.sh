# SPDX-License-Identifier: MIT OR Apache-2.0
# program: memcached
# role: server
# note: looks at errno only; the handshake ends in another thread
# rules: R7 R8 R20
row() {
	cat >t.py <<-END
		import socket, sys
		sys.path.insert(0, "/matrix")
		import peer
		conn = peer.client_context("$v").wrap_socket(socket.create_connection(("127.0.0.1", $P)), server_hostname="localhost")
		n = len(peer.BLOB)
		conn.sendall(b"set k 0 0 %d\r\n" % n + peer.BLOB + b"\r\n")
		f = conn.makefile("rwb")
		print(f.readline(), flush=True)
		conn.sendall(b"get k\r\n")
		print(f.readline(), flush=True)
		sys.stdout.buffer.write(f.read(n + 7))
		conn.close()
	END
	$SUBJECT memcached -u nobody -l 127.0.0.1 -p $P -Z -o ssl_chain_cert=$CERT,ssl_key=$KEY -I 8m & server=$!
	ready $P
	python3 t.py >out/talk; status talk $?
	stop memcached $server
}
