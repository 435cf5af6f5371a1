# SPDX-License-Identifier: MIT OR Apache-2.0
# program: stunnel4
# role: client
# note: over stdin and stdout: two descriptors of one socket
# rules: R1 R27
row() {
	cat >c <<-END
		pid =
		client = yes
		connect = 127.0.0.1:$Q
		sslVersion = TLSv$v
	END
	$PEER echo $Q $v & peer=$!
	ready $Q
	cat >t.py <<-END
		import socket, subprocess, sys
		a, b = socket.socketpair()
		p = subprocess.Popen(sys.argv[1:], stdin=b, stdout=b)
		b.close()
		blob = open("/matrix/blob", "rb").read()
		for at in range(0, len(blob), 65536):
		    part = blob[at:at + 65536]
		    a.sendall(part)
		    n = len(part)
		    while n:
		        got = a.recv(n)
		        sys.stdout.buffer.write(got)
		        n -= len(got)
		a.close()
		sys.exit(p.wait())
	END
	python3 t.py $SUBJECT stunnel4 c >out/echo 2>err; status stunnel $?
	kill $peer
}
