# SPDX-License-Identifier: MIT OR Apache-2.0
# program: vsftpd
# role: server
# note: FTPS; data on descriptors that other processes passed
# rules: R17 R22 R27
row() {
	ftp_root
	$SUBJECT vsftpd c & server=$!
	ready $P
	F="$CURL --ssl-reqd --disable-epsv"
	$F -o out/get ftp://localhost:$P/blob; status get $?
	$F -T $BLOB ftp://localhost:$P/up/x; status put $?
	cp ftp/up/x out/put
	stop vsftpd $server
}
