package policy

import (
	"fmt"
	"strings"
)

// Domains are domain names, in the file a string or an array of strings. They
// are kept as A-labels in lower case; ".example.org" stands for everything
// below example.org.
type Domains []string

// UnmarshalText takes the domains from a string.
func (d *Domains) UnmarshalText(text []byte) error {
	domains := Domains{}
	for _, field := range fields(string(text)) {
		bare, below := strings.CutPrefix(field, ".")
		name, ok := asciiDomain(bare)
		if !ok {
			return fmt.Errorf("%q is no domain name such as \"example.org\", or \".example.org\" for all below it", field)
		}
		if below {
			name = "." + name
		}
		domains = append(domains, name)
	}
	*d = domains
	return nil
}

// UnmarshalTOML takes the domains from a string or an array of strings.
func (d *Domains) UnmarshalTOML(value any) error {
	text, err := oneString(value)
	if err != nil {
		return err
	}
	return d.UnmarshalText([]byte(text))
}

// A domainSet holds domains as asciiDomain spells them; ".example.org" stands
// for everything below example.org.
type domainSet map[string]struct{}

func newDomainSet(domains Domains) domainSet {
	set := make(domainSet, len(domains))
	for _, d := range domains {
		set[d] = struct{}{}
	}
	return set
}

func (s domainSet) contains(name string) bool {
	if _, ok := s[name]; ok {
		return true
	}
	for i := 1; i < len(name); i++ {
		if name[i] != '.' {
			continue
		}
		if _, ok := s[name[i:]]; ok {
			return true
		}
	}
	return false
}
