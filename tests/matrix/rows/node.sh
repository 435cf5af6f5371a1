# SPDX-License-Identifier: MIT OR Apache-2.0
# program: nodejs
# role: client
# note: moves the records itself
# rules: R1 R8
# outside: `no-fd`
row() {
	cat >t.js <<-END
		const https = require("https"), fs = require("fs");
		const o = { host: "localhost", port: $P, ca: fs.readFileSync("$CERT"), method: "POST", minVersion: "TLSv$v", maxVersion: "TLSv$v" };
		https.request(o, r => r.pipe(fs.createWriteStream("out/post"))).end(fs.readFileSync("$BLOB"));
	END
	$PEER http $P $v & peer=$!
	ready $P
	$SUBJECT node --dns-result-order=ipv4first t.js; status post $?
	kill $peer
}
