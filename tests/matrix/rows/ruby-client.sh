# SPDX-License-Identifier: MIT OR Apache-2.0
# program: ruby
# role: client
# note: net/http
# rules: R15
row() {
	cat >t.rb <<-END
		require "net/http"
		h = Net::HTTP.new("localhost", $P)
		h.use_ssl = true; h.ca_file = "$CERT"
		h.min_version = h.max_version = OpenSSL::SSL::TLS${V_}_VERSION
		h.start { File.binwrite("out/get", h.get("/blob").body); File.binwrite("out/post", h.post("/", File.binread("$BLOB")).body) }
	END
	$PEER http $P $v & peer=$!
	ready $P
	$SUBJECT ruby t.rb; status ruby $?
	kill $peer
}
