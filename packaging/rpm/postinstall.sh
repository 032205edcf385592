# shellcheck shell=sh
# $1 is the number of installed versions: 1 is the first installation.
if [ -d /run/systemd/system ]; then systemctl daemon-reload || :; fi
if [ "$1" = 1 ] && [ ! -e /etc/postern/config.toml ]; then
  echo "postern is not started yet. Write /etc/postern/config.toml (see postern.toml(5)), then run:"
  echo "  runuser -u postern -- postern check && systemctl enable --now postern"
fi
exit 0
