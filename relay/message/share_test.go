package message

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"postern/internal/share"
)

var (
	alice = share.User("", "alice")
	bob   = share.User("", "bob")
)

// limits of a stage where one message of 256 KiB is less than a quarter.
func limits() Limits { return Limits{Memory: 1 << 20, Disk: 4 << 20, Message: 256 << 10} }

func limitedStage(t *testing.T, l Limits) *Stage {
	s := NewStage(t.TempDir(), l.Memory)
	s.SetLimits(l)
	return s
}

// put writes n bytes of body for an owner, in small pieces, and leaves the message open.
func put(s *Stage, o Options, n int) (*Writer, error) {
	w := s.New(o)
	line := strings.Repeat("x", 62) + "\r\n"
	for range n / 64 {
		if _, err := w.Write([]byte(line)); err != nil {
			return w, err
		}
	}
	return w, nil
}

func wantNoRoom(t *testing.T, err error, what string) {
	t.Helper()
	var storage *StorageError
	var room *RoomError
	if !errors.As(err, &storage) || !errors.As(err, &room) || room.What != what {
		t.Errorf("%v, want a RoomError about %s", err, what)
	}
}

// What the open messages of one user fill is a quarter at most, and what does not fit
// gives back what it had taken.
func TestShareOfDisk(t *testing.T) {
	s := limitedStage(t, limits())
	var open []*Writer
	var refused int
	for range 100 {
		w, err := put(s, Options{Owner: alice}, 200<<10)
		if err != nil {
			wantNoRoom(t, err, onDisk)
			refused++
			continue
		}
		open = append(open, w)
	}
	if len(open) != 4 || refused != 96 {
		t.Errorf("%d are open, %d refused", len(open), refused)
	}
	if n := s.OnDisk(); n != 1<<20 {
		t.Errorf("%d bytes on disk, want a quarter of 4 MiB", n)
	}
	w, err := put(s, Options{Owner: bob}, 256<<10)
	if err != nil {
		t.Errorf("another user: %v", err)
	}
	w.Abort()
	for _, w := range open {
		w.Abort()
	}
	if n := s.OnDisk() + s.InMemory(); n != 0 {
		t.Errorf("%d bytes were not given back", n)
	}
}

// However many users there are, the files never fill more than the limit.
func TestLimitOfDisk(t *testing.T) {
	s := limitedStage(t, limits())
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			w, err := put(s, Options{Owner: share.User("", fmt.Sprint(i))}, 256<<10)
			if n := s.OnDisk(); n > 4<<20 {
				t.Errorf("%d bytes on disk", n)
			}
			if err != nil {
				wantNoRoom(t, err, onDisk)
			}
			w.Abort()
		})
	}
	wg.Wait()
	if n := s.OnDisk() + s.InMemory(); n != 0 {
		t.Errorf("%d bytes were not given back", n)
	}
}

// A message of the largest size fits even if that is all that the disk may hold, also with
// line ends that are completed.
func TestLargestMessageFits(t *testing.T) {
	for _, disk := range []int64{256 << 10, 300 << 10, 1 << 20} {
		l := limits()
		l.Disk = disk
		s := limitedStage(t, l)
		w, err := put(s, Options{Owner: alice}, 256<<10)
		if err != nil {
			t.Fatalf("%d: %v", disk, err)
		}
		m, err := w.Message()
		if err != nil {
			t.Fatal(err)
		}
		if m.Size() < 256<<10 || s.OnDisk() > disk {
			t.Errorf("size %d, %d bytes on disk", m.Size(), s.OnDisk())
		}
		for _, view := range []*Message{m, m.Edit(Edit{})} {
			if err := view.Close(); err != nil {
				t.Error(err)
			}
		}
		if n := s.OnDisk(); n != 0 {
			t.Errorf("%d bytes are counted after Close", n)
		}
	}
}

// What a user may not hold in memory is written to a file; others keep their memory.
func TestShareOfMemory(t *testing.T) {
	s := limitedStage(t, limits())
	var inMemory, inFiles int
	for range 20 {
		w, err := put(s, Options{Owner: alice, Size: 32 << 10}, 32<<10)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		if w.store.file == nil {
			inMemory++
		} else {
			inFiles++
		}
	}
	if inMemory != 8 || inFiles != 12 { // 256 KiB
		t.Errorf("%d in memory, %d in files", inMemory, inFiles)
	}
	w, err := put(s, Options{Owner: bob, Size: 32 << 10}, 32<<10)
	if err != nil || w.store.file != nil {
		t.Errorf("another user: in a file, or %v", err)
	}
	w.Abort()
}

// A large header of one user does not take the memory that the header of another needs.
func TestShareOfMemoryForHeaders(t *testing.T) {
	l := limits()
	l.Memory = 64 << 20
	l.Disk = 1 << 30
	s := limitedStage(t, l)
	header := strings.Repeat("A: "+strings.Repeat("x", 1000)+"\r\n", 900) + "\r\n"
	var open []*Message
	for {
		m, err := stageAll(s, Options{Owner: alice}, header, 32<<10)
		if err != nil {
			wantNoRoom(t, err, inMemory)
			break
		}
		open = append(open, m)
	}
	if n := s.InMemory(); len(open) != 6 || n > 16<<20 {
		t.Errorf("%d headers in %d bytes", len(open), n)
	}
	m, err := stageAll(s, Options{Owner: bob}, header, 32<<10)
	if err != nil {
		t.Fatalf("another user: %v", err)
	}
	for _, m := range append(open, m) {
		m.Close()
	}
	if n := s.OnDisk() + s.InMemory(); n != 0 {
		t.Errorf("%d bytes were not given back", n)
	}
}

// Networks of clients without a login fill a quarter together.
func TestShareOfNetworks(t *testing.T) {
	s := limitedStage(t, limits())
	for i := range 100 {
		o := share.Client(netip.AddrFrom4([4]byte{192, 0, byte(i), 1}))
		if _, err := put(s, Options{Owner: o}, 100<<10); err != nil {
			wantNoRoom(t, err, onDisk)
		}
	}
	if n := s.OnDisk(); n > 1<<20 || n < 1<<19 {
		t.Errorf("%d bytes on disk", n)
	}
	if w, err := put(s, Options{Owner: alice}, 256<<10); err != nil {
		t.Error(err)
	} else {
		w.Abort()
	}
}

func TestCheck(t *testing.T) {
	s := limitedStage(t, limits())
	for _, c := range []struct {
		owner share.Owner
		size  int64
		fits  bool
	}{
		{alice, 1 << 20, true},
		{alice, 1<<20 + 1, false},
		{share.Owner{}, 4 << 20, true}, // the server itself has no share
		{share.Owner{}, 4<<20 + 1, false},
	} {
		if err := s.Check(c.owner, c.size); c.fits != (err == nil) {
			t.Errorf("%v, %d: %v", c.owner, c.size, err)
		}
	}
	if n := s.OnDisk() + s.InMemory(); n != 0 {
		t.Errorf("Check has reserved %d bytes", n)
	}
	w, err := put(s, Options{Owner: alice, Size: 256 << 10}, 1<<10)
	if n := s.OnDisk(); err != nil || n != diskStep {
		t.Errorf("1 KiB of a message declared as 256 KiB occupies %d bytes, %v", n, err)
	}
	w.Abort()

	s.SetLimits(Limits{Memory: 1 << 20, Disk: 128 << 10, Message: 64 << 10})
	err = s.Check(bob, 200<<10)
	wantNoRoom(t, err, onDisk)
	if err != nil && !strings.Contains(err.Error(), "server.stage_disk is used up: 0 of 131072 bytes; raise it") {
		t.Errorf("%v", err)
	}
	if err := s.Check(bob, 60<<10); err != nil {
		t.Errorf("what fits into memory: %v", err)
	}
}

// New limits are in force at once, also for messages that are arriving. What has arrived
// stays.
func TestSetLimits(t *testing.T) {
	s := limitedStage(t, limits())
	w, err := put(s, Options{Owner: alice}, 200<<10)
	if err != nil {
		t.Fatal(err)
	}
	s.SetLimits(Limits{Memory: 1 << 20, Disk: 64 << 10, Message: 64 << 10})
	if n := s.OnDisk(); n != 256<<10 {
		t.Errorf("%d bytes on disk", n)
	}
	_, err = w.Write([]byte(strings.Repeat("x", 62<<10) + "\r\n"))
	if err == nil {
		_, err = w.Write([]byte(strings.Repeat("\r\n", 10<<10)))
	}
	wantNoRoom(t, err, onDisk)
	if n := s.OnDisk(); n != 0 {
		t.Errorf("%d bytes were not given back", n)
	}
}

// A message that cannot be written at all gives back what it had reserved.
func TestRoomAfterStorageError(t *testing.T) {
	l := limits()
	s := NewStage(filepath.Join(t.TempDir(), "missing"), l.Memory)
	s.SetLimits(l)
	_, err := put(s, Options{Owner: alice}, 200<<10)
	var storage *StorageError
	if room := (*RoomError)(nil); !errors.As(err, &storage) || errors.As(err, &room) {
		t.Errorf("%v", err)
	}
	if n := s.OnDisk() + s.InMemory(); n != 0 {
		t.Errorf("%d bytes were not given back", n)
	}
}
