package httpapi

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// allByNetHTTP has fixtures leave all requests to net/http.
var allByNetHTTP bool

// TestMain runs all tests twice: with plain requests served by the server itself, as the binary does, and with all
// requests served by net/http. What tests say of answers holds for both.
func TestMain(m *testing.M) {
	code := m.Run()
	fuzzing := slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.fuzz") })
	if code == 0 && !fuzzing {
		allByNetHTTP = true
		fmt.Println("again, with all requests served by net/http:")
		code = m.Run()
	}
	os.Exit(code)
}
