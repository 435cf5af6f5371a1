# SPDX-License-Identifier: MIT OR Apache-2.0
# program: redis-server
# role: server
# note: io-threads: other threads read and write
# rules: R20
row() {
	$SUBJECT redis-server --port 0 --bind 127.0.0.1 --tls-port $P --tls-cert-file $CERT --tls-key-file $KEY --tls-ca-cert-file $CERT --tls-auth-clients no --tls-protocols TLSv$v --save "" --io-threads 4 --io-threads-do-reads yes >err & server=$!
	ready $P
	cat >t.py <<-END
		import socket, sys
		sys.path.insert(0, "/matrix")
		import peer
		n, part = 20, peer.BLOB[:100000]
		conns = [peer.client_context("$v").wrap_socket(socket.create_connection(("127.0.0.1", $P)), server_hostname="localhost") for i in range(n)]
		for i, c in enumerate(conns):
		    c.sendall(b"*3\r\n\$3\r\nSET\r\n\$3\r\nk%02d\r\n\$%d\r\n" % (i, len(part)) + part + b"\r\n")
		for c in conns:
		    print(c.recv(100), flush=True)
		for i, c in enumerate(conns):
		    c.sendall(b"*2\r\n\$3\r\nGET\r\n\$3\r\nk%02d\r\n" % i)
		for c in conns:
		    sys.stdout.buffer.write(c.makefile("rb").read(len(part) + 11))
		    c.close()
	END
	python3 t.py >out/talk; status talk $?
	stop redis $server
}
