package lookup

import (
	"errors"
	"fmt"
	"strings"
)

// maxInline bounds a table in the configuration. A larger one is easier to keep in a file.
const maxInline = 10_000

func checkInline(name string) error {
	_, err := parseInline(name)
	return err
}

func openInline(name string) (Table, error) { return parseInline(name) }

// parseInline reads {KEY=VALUE, { KEY = VALUE WITH BLANKS }}. A duplicate key, of which
// Postfix takes the last value, is an error here.
func parseInline(name string) (*memory, error) {
	const form = "write inline:{KEY=VALUE, { KEY = VALUE WITH BLANKS }}"
	if !braced(name) {
		return nil, errors.New(form)
	}
	fields, err := Fields(name[1 : len(name)-1])
	switch {
	case err != nil:
		return nil, err
	case len(fields) == 0:
		return nil, errors.New("the table is empty; " + form)
	case len(fields) > maxInline:
		return nil, fmt.Errorf("%d entries, at most %d are allowed; move them to a texthash: file", len(fields), maxInline)
	}
	m := &memory{spelling: "inline:" + name, unit: "entry", entries: make(map[string]record, len(fields))}
	for i, field := range fields {
		if strings.HasPrefix(field, "{") && !braced(field) {
			return nil, fmt.Errorf("%q has text after its \"}\"; put a comma between two entries", field)
		}
		key, value, err := splitAttribute(Unbrace(field))
		if err == nil {
			err = m.add(key, value, i+1)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
	}
	return m, nil
}

// splitAttribute splits "KEY = VALUE". The key keeps its quotes.
func splitAttribute(entry string) (key, value string, err error) {
	end, err := keyEnd(entry, "= \t\r\n")
	if err != nil {
		return "", "", err
	}
	key, rest := entry[:end], strings.TrimLeft(entry[end:], " \t\r\n")
	value, ok := strings.CutPrefix(rest, "=")
	value = strings.TrimSpace(value)
	if !ok || key == "" || value == "" {
		return "", "", fmt.Errorf("%q is not KEY=VALUE; write a value with blanks as { KEY = VALUE WITH BLANKS }", entry)
	}
	return key, value, nil
}
