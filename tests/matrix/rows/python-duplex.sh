# SPDX-License-Identifier: MIT OR Apache-2.0
# program: python3
# role: client
# note: a reader and a writer thread on one connection
# rules: R20
row() {
	cat >t.py <<-END
		import socket, sys, threading
		sys.path.insert(0, "/matrix")
		import peer
		conn = peer.client_context("$v").wrap_socket(socket.create_connection(("127.0.0.1", $P)), server_hostname="localhost")
		writer = threading.Thread(target=conn.sendall, args=(peer.BLOB * 2,))
		writer.start()
		n = 2 * len(peer.BLOB)
		while n:
		    part = conn.recv(min(n, 30000))
		    assert part, "closed early"
		    sys.stdout.buffer.write(part)
		    n -= len(part)
		writer.join()
		conn.close()
	END
	$PEER echo $P $v & peer=$!
	ready $P
	$SUBJECT python3 t.py >out/echo; status talk $?
	kill $peer
}
