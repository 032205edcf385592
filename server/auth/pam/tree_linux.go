package pam

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// descendants are the processes that pid has started, and those that they have.
func descendants(pid int) []int {
	var found []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is no bad one
	for _, list := range lists {
		text, _ := os.ReadFile(list) // of a thread that has ended: nobody
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				found = append(append(found, child), descendants(child)...)
			}
		}
	}
	return found
}
