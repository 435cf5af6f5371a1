# SPDX-License-Identifier: MIT OR Apache-2.0
# program: curl
# role: client
# note: FTPS: clear text first, a connection per file
# rules: R22
row() {
	ftp_root
	vsftpd c & server=$!
	ready $P
	F="$SUBJECT $CURL --ssl-reqd --disable-epsv"
	$F -o out/get ftp://localhost:$P/blob; status get $?
	$F -T $BLOB ftp://localhost:$P/up/x; status put $?
	cp ftp/up/x out/put
	stop vsftpd $server
}
