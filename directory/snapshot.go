package directory

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// A snapshot is the table between a header and a trailer:
//
//	+----------+---------+------------+------------+
//	| "LRDRDIR"| version | table      | CRC-32C    |
//	| 7 bytes  | 1 byte  | JSON       | 4 bytes BE |
//	+----------+---------+------------+------------+
//	 \______________ covered _________/
//
// JSON of a Table is canonical (struct order, sorted map keys): equal tables give equal bytes.
const (
	snapshotMagic   = "LRDRDIR"
	snapshotVersion = 1
	snapshotHeader  = len(snapshotMagic) + 1
	snapshotTrailer = 4
)

// maxSnapshot bounds what Restore reads: far above a table of 16,384 shards.
const maxSnapshot = 64 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt is returned by Restore for bytes that are damaged or are no snapshot of the directory.
var ErrCorrupt = fmt.Errorf("%w: corrupt directory snapshot", shard.ErrDataLost)

// ErrNewer is returned by Restore for a snapshot that only a newer build can read.
var ErrNewer = errors.New("a newer build of larder is needed")

// Snapshot returns the present table, which never changes.
func (m *Machine) Snapshot() shard.StateSnapshot { return tableSnapshot{m.table} }

type tableSnapshot struct{ table *Table }

// WriteTo writes the snapshot.
func (s tableSnapshot) WriteTo(w io.Writer) (int64, error) {
	body, err := json.Marshal(s.table)
	if err != nil {
		return 0, err
	}
	out := append([]byte(snapshotMagic), snapshotVersion)
	out = append(out, body...)
	out = binary.BigEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
	n, err := w.Write(out)
	return int64(n), err
}

// Restore replaces the table by the one in r, which ends with the snapshot. Errors are ErrCorrupt, ErrNewer
// or r's own; the table is then unchanged.
func (m *Machine) Restore(r io.Reader) error {
	in, err := io.ReadAll(io.LimitReader(r, maxSnapshot+1))
	if err != nil {
		return err
	}
	t, err := decodeSnapshot(in)
	if err != nil {
		return err
	}
	m.hold(t)
	return nil
}

func decodeSnapshot(in []byte) (*Table, error) {
	if len(in) < snapshotHeader+snapshotTrailer || len(in) > maxSnapshot {
		return nil, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(in))
	}
	covered, trailer := in[:len(in)-snapshotTrailer], in[len(in)-snapshotTrailer:]
	if got := crc32.Checksum(covered, castagnoli); got != binary.BigEndian.Uint32(trailer) {
		return nil, fmt.Errorf("%w: checksum %08x, want %x", ErrCorrupt, got, trailer)
	}
	if string(in[:len(snapshotMagic)]) != snapshotMagic {
		return nil, fmt.Errorf("%w: it begins with %q", ErrCorrupt, in[:len(snapshotMagic)])
	}
	if v := in[len(snapshotMagic)]; v != snapshotVersion {
		return nil, fmt.Errorf("%w: directory snapshot of version %d, this build knows %d", ErrNewer, v, snapshotVersion)
	}
	return decodeTable(covered[snapshotHeader:])
}

// decodeTable reads a table as json.Marshal writes it, and checks it. Unknown fields are an error:
// they are state that this build would lose.
func decodeTable(data []byte) (*Table, error) {
	t := &Table{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(t); err != nil && json.Valid(data) {
		return nil, fmt.Errorf("%w: %w", ErrNewer, err)
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the table", ErrCorrupt)
	}
	if t.Level > MaxLevel || t.ShardLevel > fsm.MaxLevel {
		return nil, fmt.Errorf("%w: feature levels %d and %d, this build knows %d and %d", ErrNewer, t.Level, t.ShardLevel, MaxLevel, fsm.MaxLevel)
	}
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return t, nil
}
