# SPDX-License-Identifier: MIT OR Apache-2.0
# program: openssl
# role: server
# note: s_server -WWW moves its data through a BIO of type SSL
# rules: R11
# outside: `ssl-bio`
row() {
	cd www || exit 91
	$SUBJECT openssl s_server -accept 127.0.0.1:$P -cert $CERT -key $KEY -WWW -tls$V_ >../o 2>../err & server=$!
	cd ..
	ready $P
	$CURL --http0.9 -o out/get https://localhost:$P/blob; status get $?
	stop s_server $server
}
