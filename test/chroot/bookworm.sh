# shellcheck shell=bash
# A clean Debian 12, for scripts that test what an administrator does. To be sourced:
#
#   bookworm_tarball           makes the tarball once, and prints its path
#   bookworm_unpack FOLDER     unpacks it there, with the package sources of this machine
#   bookworm_mount FOLDER      mounts /proc, /dev and a /run in memory
#   bookworm_remove FOLDER     ends what still runs in it, unmounts and removes it
#
# Only root can do this. Every function may be called again after a run that was killed.

bookworm_tarball() {
  local folder=${XDG_CACHE_HOME:-$HOME/.cache}/postern-test tarball part mirror
  tarball=$folder/debian-bookworm-minbase.tar
  mkdir -p "$folder"
  # Two runs at a time do not make it twice.
  exec 8>"$folder/debian-bookworm-minbase.lock"
  flock 8
  if [ ! -e "$tarball" ]; then
    # shellcheck disable=SC2016 # apt-get replaces these variables
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | sort -u | sed -n 1p)
    part=$(mktemp -d "$folder/debootstrap.XXXXXX")
    debootstrap --variant=minbase bookworm "$part/root" "${mirror:-http://deb.debian.org/debian}" >"$part.log" 2>&1 || {
      tail -n 5 "$part.log" >&2
      rm -rf --one-file-system "$part"
      return 1
    }
    rm -rf "$part"/root/var/cache/apt/archives/*.deb "$part.log"
    tar -C "$part/root" --numeric-owner -cf "$part/tar" .
    mv "$part/tar" "$tarball"
    rm -rf --one-file-system "$part"
  fi
  exec 8>&-
  echo "$tarball"
}

bookworm_unpack() {
  local root=$1 tarball
  tarball=$(bookworm_tarball)
  mkdir -p "$root"
  tar -C "$root" --numeric-owner -xf "$tarball"
  rm -f "$root/etc/apt/sources.list"
  cp -r /etc/apt/sources.list /etc/apt/sources.list.d "$root/etc/apt/" 2>/dev/null || true
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  # There is no systemd in the folder, so a package can start no service.
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
}

bookworm_mount() {
  local root=$1
  mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
  mountpoint -q "$root/dev" || mount --rbind /dev "$root/dev"
  mount --make-rslave "$root/dev"
  mountpoint -q "$root/run" || mount -t tmpfs -o mode=755 tmpfs "$root/run"
}

# Processes whose root is the folder are ended. A folder that still has a mount is not
# removed: that would empty /dev of this machine.
bookworm_remove() {
  local root=$1 process
  [ -d "$root" ] || return 0
  for process in /proc/[0-9]*; do
    [ "$(readlink "$process/root")" != "$root" ] || kill -KILL "${process#/proc/}" 2>/dev/null || true
  done
  ! mountpoint -q "$root/dev" || umount -R -l "$root/dev"
  ! mountpoint -q "$root/proc" || umount -l "$root/proc"
  ! mountpoint -q "$root/run" || umount -l "$root/run"
  rm -rf --one-file-system "$root"
}
