package lru

import (
	"fmt"
	"testing"
)

func TestTheOldestPutIsReplaced(t *testing.T) {
	m := New[string, int](3)
	for i, key := range []string{"a", "b", "c"} {
		m.Put(key, i)
	}
	m.Get("b")    // does not make b younger
	m.Put("a", 9) // makes a the youngest
	m.Put("d", 4)
	m.Remove("absent")
	var got []string
	for _, key := range []string{"a", "b", "c", "d"} {
		if value, ok := m.Get(key); ok {
			got = append(got, fmt.Sprint(key, value))
		}
	}
	if fmt.Sprint(got) != "[a9 c2 d4]" || m.Len() != 3 {
		t.Errorf("%d entries: %v, want [a9 c2 d4]", m.Len(), got)
	}
	m.Remove("a")
	if _, ok := m.Get("a"); ok || m.Len() != 2 || m.order.Len() != 2 {
		t.Errorf("%d entries and %d in order after Remove, want 2", m.Len(), m.order.Len())
	}
}

func TestAllBeginsWithTheOldestPut(t *testing.T) {
	m := New[string, int](3)
	for i, key := range []string{"a", "b", "c", "a"} {
		m.Put(key, i)
	}
	var got []string
	for key, value := range m.All() {
		if got = append(got, fmt.Sprint(key, value)); len(got) == 2 {
			break
		}
	}
	if fmt.Sprint(got) != "[b1 c2]" {
		t.Errorf("%v, want [b1 c2]", got)
	}
}
