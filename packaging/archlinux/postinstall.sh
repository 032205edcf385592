# shellcheck shell=sh
# pacman's hook for sysusers.d runs after this script, so the user is created here.
systemd-sysusers postern.conf
chown root:postern /etc/postern
chown postern:postern /var/lib/postern
if [ ! -e /etc/postern/config.toml ]; then
  echo "postern is not started yet. Write /etc/postern/config.toml (see postern.toml(5)), then run:"
  echo "  runuser -u postern -- postern check && systemctl enable --now postern"
fi
