# shellcheck shell=sh
if [ -d /run/systemd/system ]; then
  systemctl --no-reload disable --now postern.service postern.socket postern-submissions.socket || :
fi
