# shellcheck shell=sh
if [ -d /run/systemd/system ]; then
  systemctl --no-reload disable --now postern-pam-helper.service || :
fi
