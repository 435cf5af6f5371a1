# SPDX-License-Identifier: MIT OR Apache-2.0
# program: lighttpd
# role: server
# note: its own kernel TLS switched off
# rules: R8 R12 R14
row() {
	lighttpd_row ', "Options" => "-KTLS"'
}
