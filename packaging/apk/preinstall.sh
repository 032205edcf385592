#!/bin/sh
# The files of the package belong to this user, so it is created before they are unpacked.
addgroup -S postern 2>/dev/null
adduser -S -D -H -h /nonexistent -s /sbin/nologin -G postern -g "postern SMTP submission server" postern 2>/dev/null
exit 0
