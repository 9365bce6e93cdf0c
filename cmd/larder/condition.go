package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

// condition is what must hold of the entry for a write to happen.
type condition struct {
	match  string
	absent bool
}

func (c *condition) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.match, "if-match", "", "only if the entry has this version, or * for any")
}

// apply sets the header of c, whose flags are those of cmd. A version may come with the quotes of its
// ETag. An empty one is refused: a script that lost the version must not write unconditionally.
func (c *condition) apply(cmd *cobra.Command, h http.Header) error {
	switch {
	case c.absent:
		h.Set("If-None-Match", "*")
	case c.match == "*":
		h.Set("If-Match", "*")
	case cmd.Flags().Changed("if-match"):
		digits := strings.Trim(c.match, `"`)
		if digits == "" || strings.Trim(digits, "0123456789") != "" {
			return usageError{fmt.Errorf("--if-match %q is not a version or *", c.match)}
		}
		h.Set("If-Match", `"`+digits+`"`)
	}
	return nil
}
