package app

import (
	"errors"
	"slices"

	"postern/cmd/postern/internal/process"
	"postern/internal/access"
	"postern/internal/fileperm"
)

// A FileWarning is a permission that should be corrected and does not prevent the use of a file.
type FileWarning struct {
	Key  string // the configuration key that names the file
	Text string // the reason and the next step
}

// FileWarnings checks all files that list names. What several files have in common, such as a
// folder, is reported once. What prevents the use of a file is the error of the part that opens
// it.
func FileWarnings(list *access.List) (all []FileWarning) {
	seen := make(map[string]bool)
	for _, f := range slices.Concat(list.Reads, list.Writes, list.Trees) {
		for _, text := range fileperm.Warnings(f.Path, f.Kind) {
			if !seen[text] {
				all = append(all, FileWarning{f.Key, text})
			}
			seen[text] = true
		}
	}
	return all
}

// warnOfFiles logs the warnings about the files of a generation.
func (a *App) warnOfFiles(list *access.List) {
	for _, w := range FileWarnings(list) {
		a.log.Warn("file permissions", "key", w.Key, "reason", w.Text)
	}
}

// asConfigError gives an error about the type or the permissions of a file the exit status of an
// error in the configuration: another start does not help.
func asConfigError(err error) error {
	if _, refused := errors.AsType[fileperm.Refused](err); refused {
		return process.WithStatus(process.ExitConfig, err)
	}
	return err
}
