# SPDX-License-Identifier: MIT OR Apache-2.0
# program: openssl
# role: client
# note: s_client
# rules: R8 R23
row() {
	$PEER http $P $v & peer=$!
	ready $P
	{ printf 'POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %s\r\n\r\n' $N; cat $BLOB; } >request
	$SUBJECT openssl s_client -connect 127.0.0.1:$P -quiet -no_ign_eof -ign_eof -tls$V_ <request >got 2>err; status s_client $?
	tail -c $N got >out/post
	kill $peer
}
