package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"mime"
	"net/http"
)

// maxPageBody bounds the body of a page of keys, bytes: a megabyte of keys, each byte of which JSON may write as six.
const maxPageBody = 16 << 20

// Keys lists the keys that begin with prefix, all where it is "", in the order of their slots and then of their bytes. A key that is
// there all the time comes once; one that comes or goes meanwhile may come or not. What comes from one shard in one page is the
// state of one moment, pages are not: a list is no snapshot. It is no use of the entries.
//
// Options are Bounded and Any; each page is a call of its own as to Config.Timeout. An error is the last that comes:
//
//	for key, err := range c.Keys(ctx, "user:") {
//		if err != nil {
//			return err
//		}
//		...
//	}
func (c *Client) Keys(ctx context.Context, prefix string, opts ...ReadOption) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for cursor, more := "", true; more; more = cursor != "" {
			r := scanRequest("keys", http.MethodGet, prefix, cursor)
			for _, o := range opts {
				o.apply(r)
			}
			a, err := c.do(ctx, r)
			if err != nil {
				yield("", err)
				return
			}
			for _, key := range a.keys {
				if !yield(key, nil) {
					return
				}
			}
			cursor = a.cursor
		}
	}
}

// DeletePrefix removes the keys that begin with prefix, which must not be empty, and returns how many that were. It is not atomic: others
// see it half done, and what is written meanwhile may be removed or stay. It takes as many requests as it needs, each of which is a
// call of its own as to Config.Timeout.
//
// With an error that many were removed before; the error tells what came of the rest. It is ErrOutcomeUnknown where more may be, or
// may still be: nothing is sent again then. To call again does no harm but to what was written since.
func (c *Client) DeletePrefix(ctx context.Context, prefix string) (removed uint64, err error) {
	for cursor, more := "", true; more; more = cursor != "" {
		r := scanRequest("delete prefix", http.MethodDelete, prefix, cursor)
		if prefix == "" {
			r.refuse("the prefix is empty")
		}
		a, err := c.do(ctx, r)
		if err != nil {
			return removed, err
		}
		removed, cursor = removed+a.removed, a.cursor
	}
	return removed, nil
}

func scanRequest(op, method, prefix, cursor string) *request {
	r := &request{op: op, method: method, scan: true}
	r.set("prefix", prefix)
	if cursor != "" {
		r.set("cursor", cursor)
	}
	if len(prefix) > maxKeyBytes {
		r.refuse("the prefix has %d bytes, no key has more than %d", len(prefix), maxKeyBytes)
	}
	return r
}

// settleScan is settle for a page of keys, or what removed some.
func (r *request) settleScan(n *node, resp *http.Response) (*answer, *Error) {
	var body struct {
		Keys []struct {
			Key    string
			KeyB64 []byte `json:"key_b64"`
		}
		Removed *uint64
		Cursor  *string
	}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || media != "application/json" || resp.StatusCode != http.StatusOK {
		return nil, r.foreign(n, resp, fmt.Errorf("its content type is %q", resp.Header.Get("Content-Type")))
	}
	text, err := readBody(resp, maxPageBody)
	if err == nil {
		err = json.Unmarshal(text, &body)
	}
	if err == nil && (body.Cursor == nil || r.read() && body.Keys == nil || !r.read() && body.Removed == nil) {
		err = errors.New("it lacks a member")
	}
	if err != nil {
		return nil, r.foreign(n, resp, err)
	}
	a := &answer{cursor: *body.Cursor}
	if body.Removed != nil {
		a.removed = *body.Removed
	}
	for _, k := range body.Keys {
		if k.Key == "" {
			k.Key = string(k.KeyB64)
		}
		a.keys = append(a.keys, k.Key)
	}
	return a, nil
}
