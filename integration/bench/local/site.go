package local

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/larder-cache/larder/integration/cluster"
)

// Main runs a benchmark as its command: run until it is done, or a signal ends its context. What it returns is told, and is the
// exit code: 2 where help was asked for, 1 for any other error.
func Main(name string, run func(ctx context.Context, args []string, out, status io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Site is where a benchmark works: a folder for all that it writes, and the server.
type Site struct {
	Dir     string
	builder *cluster.Builder // nil: nothing was built
}

// OpenSite makes a folder for the benchmark of that name in dir. Close removes it.
func OpenSite(name, dir string) (*Site, error) {
	dir, err := os.MkdirTemp(dir, "larder-"+name+"-")
	if err != nil {
		return nil, err
	}
	return &Site{Dir: dir}, nil
}

// Larder returns the path of the server: binary, or one that is built from the sources where that is "".
func (s *Site) Larder(binary string, status io.Writer) (string, error) {
	if binary != "" {
		return binary, nil
	}
	if s.builder == nil {
		var err error
		if s.builder, err = cluster.NewBuilder(); err != nil {
			return "", err
		}
	}
	fmt.Fprintln(status, "building larder")
	return s.builder.Build()
}

// Close removes the folder, and what was built.
func (s *Site) Close() error {
	err := os.RemoveAll(s.Dir)
	if s.builder != nil {
		err = errors.Join(err, s.builder.Close())
	}
	return err
}
