package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"postern/cmd/postern/internal/process"
	"postern/internal/fileperm"
	"postern/relay/message"
	"postern/server"
)

// openStage keeps the stage of the generation before, and so the account of memory and disk
// in use, unless the folder has changed. Activate sets the limits.
func (a *App) openStage(g *Generation) error {
	folder := g.cfg.StageFolder()
	if a.newest != nil && a.newest.cfg.StageFolder() == folder {
		g.stage, g.stageAuto = a.newest.stage, a.newest.stageAuto
		return nil
	}
	if err := CheckStageDir(folder); err != nil {
		return err
	}
	g.stage = message.NewStage(folder, int64(g.cfg.Server.StageMemory))
	g.stageAuto = autoStageDisk(folder)
	return nil
}

// CheckStageDir creates a file in the folder for large messages, so that a mistake is
// reported at the start and not by a 451 to the first large message.
func CheckStageDir(dir string) error {
	f, err := os.CreateTemp(dir, "postern-check-*")
	if err != nil {
		return fmt.Errorf("server.stage_dir: cannot write large messages: %w; %s", err, stageRemedy(dir, err))
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// stageRemedy returns the next step after an error of CheckStageDir.
func stageRemedy(dir string, err error) string {
	switch {
	case errors.Is(err, syscall.EROFS) && fileperm.InContainer():
		return fmt.Sprintf("the file system is read-only: mount a tmpfs there (docker run --tmpfs %s; Compose: tmpfs; Kubernetes: emptyDir)", dir)
	case errors.Is(err, syscall.EROFS):
		return fmt.Sprintf("the file system is read-only: mount a tmpfs at %s (for the service: TemporaryFileSystem=, PrivateTmp= or ReadWritePaths=)", dir)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "the file system is full: free some space, or name a folder on another disk"
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Sprintf("%s is not a folder: name a folder", dir)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("there is no such folder: create it with \"install -d -m 0700 -o %s %s\"", process.CurrentAccount().Name, dir)
	}
	return fmt.Sprintf("name a folder that %s may write to", process.CurrentAccount().Name)
}

// maxAutoStageDisk is the largest server.stage_disk that the server chooses itself.
const maxAutoStageDisk = 4 << 30

// autoStageDisk returns half of the free space of the folder, in whole MiB, and at most
// maxAutoStageDisk. It returns that, too, where the system does not show the space.
func autoStageDisk(dir string) int64 {
	space, err := process.DiskSpace(dir)
	if err != nil {
		return maxAutoStageDisk
	}
	return min(space.Free/2>>20<<20, maxAutoStageDisk)
}

// stageLimits returns the limits of the stage. What the server chooses itself is at least
// one message of the largest size: the disk may be large enough for that later.
func stageLimits(cfg *server.Config, auto int64) message.Limits {
	disk := int64(cfg.StageDisk)
	if disk == 0 {
		disk = max(auto, int64(cfg.MessageSizeLimit))
	}
	return message.Limits{Memory: int64(cfg.StageMemory), Disk: disk, Message: int64(cfg.MessageSizeLimit)}
}

// sharedMessages is how many messages of the largest size must fit on the disk, so that the
// one message that every user may stage is no more than a quarter.
const sharedMessages = 4

// CheckStageSpace compares server.stage_disk with the folder dir. It returns a description of
// the limit, or a warning with the next step.
func CheckStageSpace(dir string, cfg *server.Config) (text, warning string) {
	const written = "large messages can be written"
	limit := server.Size(stageLimits(cfg, autoStageDisk(dir)).Disk)
	space, err := process.DiskSpace(dir)
	if err != nil {
		return written, "" // only Linux shows it
	}
	text = fmt.Sprintf("%s, up to %s of them together", written, limit)
	kind, where := "the file system of "+dir, "name a folder with more space in server.stage_dir"
	if space.InMemory {
		kind, where = dir+", which is a tmpfs and thus memory,", "name a folder on a disk in server.stage_dir"
	}
	switch needed := sharedMessages * cfg.MessageSizeLimit; {
	case space.InMemory && int64(limit) > space.Total:
		return text, fmt.Sprintf("%s has %s in all, and server.stage_disk is %s; %s, or lower server.stage_disk",
			kind, mebibytes(space.Total), limit, where)
	case int64(limit) > space.Free:
		return text, fmt.Sprintf("%s has %s free, and server.stage_disk is %s; %s, free some space, or lower server.stage_disk",
			kind, mebibytes(space.Free), limit, where)
	case limit < needed:
		return text, fmt.Sprintf("%s has %s free, and the limit for large messages is %s; with less than %s, which is %d messages of "+
			"server.message_size_limit, the messages of one user can keep out those of others; %s, raise server.stage_disk, "+
			"or lower server.message_size_limit", kind, mebibytes(space.Free), limit, needed, sharedMessages, where)
	}
	return text, ""
}

func mebibytes(n int64) string { return fmt.Sprintf("%dMiB", n>>20) }
