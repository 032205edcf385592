package fault

import (
	"os"
	"testing"

	"postern/test/kit"
)

// program builds postern once for all drills.
var program = kit.Program("postern", "-race")

func TestMain(m *testing.M) {
	kit.AtOnce(8)
	status := m.Run()
	kit.RemovePrograms()
	os.Exit(status)
}
