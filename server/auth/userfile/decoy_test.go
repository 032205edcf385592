package userfile

import (
	"slices"
	"testing"

	"postern/server/auth"
	"postern/server/auth/hash"
)

// A refused login computes the same hashes whether the user exists, is locked, or is unknown: one,
// or two for a password that PRECIS changes.
func TestRefusalsComputeTheSameHashes(t *testing.T) {
	f := openText(t, "alice:"+secret+"\nbob:"+other+"\nlocked:!"+secret+"\n")
	v := auth.WithPRECIS(f.Store)
	for password, want := range map[string][]hash.Kind{
		"wrong":          {"sha"},
		"e\u0301 wrong":  {"sha", "sha"},
		"\u00e9 wrong":   {"sha"},
		"\xff not UTF-8": {"sha"},
	} {
		for _, login := range []string{"alice", "bob", "locked", "nobody", "Alice", "a\u0301lice"} {
			var computed []hash.Kind
			ctx := hash.WithTrace(t.Context(), func(k hash.Kind) { computed = append(computed, k) })
			if _, err := v.VerifyPassword(ctx, &auth.Peer{}, login, password); err == nil || !slices.Equal(computed, want) {
				t.Errorf("%s with %q: %q, %v; want %q", login, password, computed, err, want)
			}
		}
	}
}
