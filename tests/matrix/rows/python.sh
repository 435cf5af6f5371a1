# SPDX-License-Identifier: MIT OR Apache-2.0
# program: python3
# role: server
# note: ssl, a thread per connection, wrapped listener
# rules: R16 R20 R22
row() {
	$SUBJECT python3 /matrix/peer.py http $P $v & server=$!
	ready $P
	$CURL -o out/get https://localhost:$P/blob; status get $?
	$CURL -o out/post --data-binary @$BLOB https://localhost:$P/post; status post $?
	idle $P
	stop python $server
}
