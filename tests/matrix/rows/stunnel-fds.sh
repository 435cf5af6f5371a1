# SPDX-License-Identifier: MIT OR Apache-2.0
# program: stunnel4
# role: server
# note: TLS on stdin and stdout, as from inetd: SSL_set_rfd and SSL_set_wfd, two numbers of one socket
# rules: R1 R27
row() {
	cat >c <<-END
		pid =
		connect = 127.0.0.1:$Q
		cert = $BOTH
		sslVersion = TLSv$v
	END
	cat >t.py <<-END
		import socket, subprocess, sys
		listener = socket.create_server(("127.0.0.1", $P))
		conn, _ = listener.accept()
		listener.close()
		p = subprocess.Popen(sys.argv[1:], stdin=conn, stdout=conn)
		conn.close()
		sys.exit(p.wait())
	END
	$PEER echo $Q & peer=$!
	ready $Q
	python3 t.py $SUBJECT stunnel4 c 2>err & server=$!
	ready $P
	$PEER talk $P $v >out/echo; status talk $?
	wait $server; status stunnel $?
	kill $peer
}
