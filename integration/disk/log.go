package disk

import (
	"encoding/binary"
	"fmt"
	"time"
	"unsafe"

	"go.etcd.io/bbolt"
)

// entry is where an entry of a log lies in its file.
type entry struct {
	path         string
	index        uint64
	offset, size int64
	page         int64 // size of a page of bbolt's
}

func (e entry) String() string { return fmt.Sprintf("log entry %d", e.index) }

// lastFew is how many entries count as the last ones: those that a majority may not have synced yet when a node went down.
const lastFew = 4

// bucket is the one in which the log lies.
const bucket = "logs"

// lastEntries returns where the last entries of a replica's own log lie, the newest first.
func lastEntries(path string) ([]entry, error) {
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	info := db.Info()
	var entries []entry
	err = db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, v := c.Last(); k != nil && len(entries) < lastFew; k, v = c.Prev() {
			if len(k) != 8 || len(v) == 0 {
				return fmt.Errorf("entry %x of %d bytes", k, len(v))
			}
			// Values are parts of the mapped file.
			offset := int64(uintptr(unsafe.Pointer(unsafe.SliceData(v))) - info.Data)
			if offset < 0 || offset+int64(len(v)) > tx.Size() {
				return fmt.Errorf("entry %x does not lie in the file", k)
			}
			entries = append(entries, entry{path, binary.BigEndian.Uint64(k), offset, int64(len(v)), int64(info.PageSize)})
		}
		return nil
	})
	return entries, err
}
