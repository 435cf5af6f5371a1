# SPDX-License-Identifier: MIT OR Apache-2.0
# program: apache2-utils
# role: client
# note: ab
# rules: R15
row() {
	$PEER http $P $v & peer=$!
	ready $P
	$SUBJECT ab -q -n 4 -c 2 -f TLS$v -p $BLOB -T text/plain https://127.0.0.1:$P/post >ab; status ab $?
	grep -E 'Complete|Failed|Non-2xx|HTML transferred' ab >out/figures
	kill $peer
}
