package check

import "fmt"

// environment names the variables that have replaced keys of the file, since a key that has no
// effect there is otherwise hard to explain.
func (c *checker) environment() {
	for _, v := range c.cfg.Environment() {
		c.report.OK("environment", fmt.Sprintf("%s sets %s: %s", v.Name, v.Key, v.Value))
	}
}
