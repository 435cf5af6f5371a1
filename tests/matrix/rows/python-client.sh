# SPDX-License-Identifier: MIT OR Apache-2.0
# program: python3
# role: client
# note: ssl; unwrap() at the end
# rules: R22
row() {
	$PEER echo $P $v & peer=$!
	ready $P
	$SUBJECT python3 /matrix/peer.py talk $P $v >out/echo; status talk $?
	kill $peer
}
