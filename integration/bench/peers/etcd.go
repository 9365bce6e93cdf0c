package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/larder-cache/larder/httpapi/client/load"
	"github.com/larder-cache/larder/integration/bench/local"
	"github.com/larder-cache/larder/integration/port"
)

// etcd is a cluster of three.
type etcd struct {
	members []*local.Process
	addrs   []string // HOST:PORT for clients
	shared  int      // clients to a connection
}

func startEtcd(ctx context.Context, self, dir string, shared int) (system, error) {
	const members = 3
	e := &etcd{shared: shared}
	var initial, peers []string
	for i := range members {
		addr, addrErr := port.Free("127.0.0.1")
		peer, peerErr := port.Free("127.0.0.1")
		if err := errors.Join(addrErr, peerErr); err != nil {
			return nil, err
		}
		e.addrs, peers = append(e.addrs, addr), append(peers, peer)
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i, peer))
	}
	for i := range members {
		name := fmt.Sprintf("m%d", i)
		p, err := local.Start("etcd "+name, filepath.Join(dir, name+".log"), self, "child", "etcd", name, filepath.Join(dir, name), e.addrs[i], peers[i], strings.Join(initial, ","))
		if err != nil {
			return nil, errors.Join(err, e.close())
		}
		e.members = append(e.members, p)
	}
	if err := e.members[0].Await(ctx, "led", func() bool {
		_, err := e.leader(ctx)
		return err == nil
	}); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// leader returns the address of the member that leads, by its own word.
func (e *etcd) leader(ctx context.Context) (string, error) {
	for _, addr := range e.addrs {
		conn, err := connectEtcd(addr)
		if err != nil {
			return "", err
		}
		ctx, cancel := context.WithTimeout(ctx, requestTime)
		status, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
		cancel()
		if err := errors.Join(err, conn.Close()); err != nil {
			return "", err
		}
		if status.Leader != 0 && status.Leader == status.Header.MemberId {
			return addr, nil
		}
	}
	return "", errors.New("no member leads")
}

func connectEtcd(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func (e *etcd) processes() []*local.Process { return e.members }

// open implements system: clients speak gRPC without etcd's own client around it, which would cost them more.
func (e *etcd) open(ctx context.Context) (load.Dial, func() error, error) {
	leader, err := e.leader(ctx)
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	conns := map[int]*grpc.ClientConn{} // guarded by mu
	dial := func(_ context.Context, client int) (load.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		conn := conns[client/e.shared]
		if conn == nil {
			var err error
			if conn, err = connectEtcd(leader); err != nil {
				return nil, err
			}
			conn.Connect()
			conns[client/e.shared] = conn
		}
		return etcdConn{pb.NewKVClient(conn)}, nil
	}
	closeAll := func() error {
		var errs []error
		for _, conn := range conns {
			errs = append(errs, conn.Close())
		}
		return errors.Join(errs...)
	}
	return dial, closeAll, nil
}

// counters implements system. Each member syncs its log on its own.
func (e *etcd) counters(ctx context.Context) (c counters, err error) {
	c.hasMallocs, c.hasSyncs = true, true
	for _, addr := range e.addrs {
		text, err := local.Fetch(ctx, "http://"+addr+"/metrics")
		if err != nil {
			return c, err
		}
		for _, m := range []struct {
			name string
			sum  *float64
			has  *bool
		}{{"go_memstats_mallocs_total", &c.mallocs, &c.hasMallocs}, {"etcd_disk_wal_fsync_duration_seconds_count", &c.syncs, &c.hasSyncs}} {
			value, found, err := local.Metric(text, m.name)
			if err != nil {
				return c, err
			}
			*m.sum += value
			*m.has = *m.has && found
		}
	}
	return c, nil
}

func (e *etcd) close() error {
	var errs []error
	for _, p := range e.members {
		errs = append(errs, p.Kill())
	}
	return errors.Join(errs...)
}

// etcdConn is one client, on a connection that others may share.
type etcdConn struct{ kv pb.KVClient }

// Get implements load.Conn.
func (c etcdConn) Get(ctx context.Context, key []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	resp, err := c.kv.Range(ctx, &pb.RangeRequest{Key: key})
	switch {
	case err != nil:
		return &load.Failure{Kind: load.Unavailable, Reason: grpcstatus.Code(err).String()}
	case len(resp.Kvs) == 0:
		return load.ErrMissing
	}
	return nil
}

// Put implements load.Conn.
func (c etcdConn) Put(ctx context.Context, key, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	if _, err := c.kv.Put(ctx, &pb.PutRequest{Key: key, Value: value}); err != nil {
		kind := load.Unknown
		if grpcstatus.Code(err) == codes.ResourceExhausted {
			kind = load.Unavailable
		}
		return &load.Failure{Kind: kind, Reason: grpcstatus.Code(err).String()}
	}
	return nil
}

// Close implements load.Conn: connections are shared, and closed together.
func (etcdConn) Close() error { return nil }

// serveEtcd is a member of a cluster, until ctx ends. All settings that cost or save something are etcd's defaults.
func serveEtcd(ctx context.Context, name, dir, addr, peer, initial string) error {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.InitialCluster = name, dir, initial
	cfg.LogLevel = "error"
	at := func(addr string) []url.URL { return []url.URL{{Scheme: "http", Host: addr}} }
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = at(addr), at(addr)
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = at(peer), at(peer)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer server.Close()
	select {
	case err := <-server.Err():
		return err
	case <-server.Server.StopNotify():
		return errors.New("etcd stopped")
	case <-ctx.Done():
		return nil
	}
}
