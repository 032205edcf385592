package server

import (
	"os"
	"testing"

	"postern/test/kit"
)

func TestMain(m *testing.M) {
	kit.AtOnce(16)
	os.Exit(kit.Main(m))
}
