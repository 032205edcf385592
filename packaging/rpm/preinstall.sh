# shellcheck shell=sh
# The files of the package belong to this user, so it is created before they are unpacked.
getent group postern >/dev/null || groupadd --system postern
getent passwd postern >/dev/null || useradd --system --gid postern --home-dir /nonexistent \
  --no-create-home --shell /sbin/nologin --comment "postern SMTP submission server" postern
exit 0
