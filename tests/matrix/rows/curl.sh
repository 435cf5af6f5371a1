# SPDX-License-Identifier: MIT OR Apache-2.0
# program: curl
# role: client
# rules: R4 R24
row() {
	$PEER http $P $v & peer=$!
	ready $P
	$SUBJECT $CURL -o out/get https://localhost:$P/blob; status get $?
	$SUBJECT $CURL -o out/post --data-binary @$BLOB https://localhost:$P/post; status post $?
	kill $peer
}
