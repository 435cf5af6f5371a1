# SPDX-License-Identifier: MIT OR Apache-2.0
# program: lftp
# role: client
# note: linked with GnuTLS
# rules: R1
# outside: no OpenSSL in the program (GnuTLS)
row() {
	$PEER http $P $v & peer=$!
	ready $P
	$SUBJECT lftp -c "set ssl:ca-file $CERT; get https://localhost:$P/blob -o $W/out/get"; status get $?
	kill $peer
}
