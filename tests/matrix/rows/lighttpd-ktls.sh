# SPDX-License-Identifier: MIT OR Apache-2.0
# program: lighttpd
# role: server
# note: as it comes: switches on OpenSSL's own kernel TLS
# rules: R14
# outside: `openssl-ktls`
row() {
	lighttpd_row ''
}
