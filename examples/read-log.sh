#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# read-log.sh FILE - what a KTLSSHIM_LOG says, in short (needs jq)
#
# First line per program and direction: connections, how many were in the kernel, bytes by way.
# Then the reasons of those that were not.
set -eu

[ $# -eq 1 ] || { echo "usage: $0 FILE" >&2; exit 2; }

jq -rs '
	def lane: .fast_records + .slow_records > 0;
	[.[] | {program, dir: "tx"} + .tx, {program, dir: "rx"} + .rx]
	| group_by([.program, .dir])[]
	| "\(.[0].program) \(.[0].dir): \(length) connections, \(map(select(lane)) | length) in the kernel; "
	+ "bytes: fast \(map(.fast_bytes) | add), translated \(map(.slow_bytes) | add), "
	+ "before \(map(.before_bytes) | add)",
	(map(select(lane | not)) | group_by(.reason)[] | "    \(length) x \(.[0].reason)")
' "$1"
