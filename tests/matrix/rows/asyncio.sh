# SPDX-License-Identifier: MIT OR Apache-2.0
# program: python3
# role: client
# note: asyncio moves the records itself
# rules: R1
# outside: `no-fd`
row() {
	cat >t.py <<-END
		import asyncio, sys
		sys.path.insert(0, "/matrix")
		import peer
		async def main():
		    r, w = await asyncio.open_connection("127.0.0.1", $P, ssl=peer.client_context("$v"), server_hostname="localhost")
		    for at in range(0, len(peer.BLOB), 65536):
		        part = peer.BLOB[at:at + 65536]
		        w.write(part)
		        sys.stdout.buffer.write(await r.readexactly(len(part)))
		    w.close()
		asyncio.run(main())
	END
	$PEER echo $P $v & peer=$!
	ready $P
	$SUBJECT python3 t.py >out/echo; status talk $?
	kill $peer
}
