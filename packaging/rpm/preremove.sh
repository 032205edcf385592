# shellcheck shell=sh
# $1 is the number of versions that remain: 0 is a removal, not an upgrade.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
  systemctl --no-reload disable --now postern.service postern.socket postern-submissions.socket || :
fi
exit 0
