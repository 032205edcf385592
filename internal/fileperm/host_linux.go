package fileperm

import "golang.org/x/sys/unix"

// modesOf returns whether the file system of path stores modes: see statfs(2).
func modesOf(path string) modes {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return unknown
	}
	switch uint32(st.Type) { // signed on some platforms
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC,
		unix.RAMFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC, unix.NFS_SUPER_MAGIC, unix.SQUASHFS_MAGIC, zfsMagic:
		return stored
	case unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.SMB_SUPER_MAGIC,
		ntfsMagic, ntfs3Magic, vboxMagic, vmwareMagic:
		return invented
	case unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC:
		return sometimes
	}
	return unknown
}

// Numbers that golang.org/x/sys/unix does not have: from the kernel's ntfs, ntfs3 and vboxsf,
// from open-vm-tools and from OpenZFS.
const (
	ntfsMagic   = 0x5346544e
	ntfs3Magic  = 0x7366746e
	vboxMagic   = 0x786f4256
	vmwareMagic = 0xbacbacbc
	zfsMagic    = 0x2fc12fc1
)
