package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

// idempotency is the key under which a change is made once, however often the command is repeated.
type idempotency struct{ key string }

func (i *idempotency) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&i.key, "idempotency-key", "", "make the change once, however often it is sent under this key within 30s")
}

// apply sets the header. An empty key is refused, as an empty version is.
func (i *idempotency) apply(cmd *cobra.Command, h http.Header) error {
	if !cmd.Flags().Changed("idempotency-key") {
		return nil
	}
	if i.key == "" || len(i.key) > maxIdempotencyKey || strings.ContainsFunc(i.key, func(c rune) bool { return c < ' ' || c > '~' }) {
		return usageError{fmt.Errorf("--idempotency-key %q is not 1 to %d printable characters", i.key, maxIdempotencyKey)}
	}
	h.Set("Idempotency-Key", `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(i.key)+`"`)
	return nil
}

const maxIdempotencyKey = 64
