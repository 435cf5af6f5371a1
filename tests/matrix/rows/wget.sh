# SPDX-License-Identifier: MIT OR Apache-2.0
# program: wget
# role: client
# note: linked with GnuTLS
# rules: R1
# outside: no OpenSSL in the program (GnuTLS)
row() {
	[ $v = 1.2 ] && pr=TLSv1_2 || pr=TLSv1_3
	$PEER http $P $v & peer=$!
	ready $P
	$SUBJECT wget -q --secure-protocol=$pr --ca-certificate=$CERT -O out/get https://localhost:$P/blob; status get $?
	$SUBJECT wget -q --secure-protocol=$pr --ca-certificate=$CERT --post-file=$BLOB -O out/post https://localhost:$P/; status post $?
	kill $peer
}
