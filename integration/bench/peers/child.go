package main

import (
	"context"
	"fmt"
)

// child is a process of a system that has no binary of its own.
func child(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "bare":
		return serveBare(ctx, args[1])
	case len(args) == 6 && args[0] == "etcd":
		return serveEtcd(ctx, args[1], args[2], args[3], args[4], args[5])
	}
	return fmt.Errorf("child %q: there is none of the kind", args)
}
