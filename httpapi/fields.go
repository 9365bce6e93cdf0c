package httpapi

import (
	"net/http"
	"strconv"

	"github.com/larder-cache/larder/shard"
)

// fields sets the header fields of one answer, with one piece of memory for the values of all. Names are given
// as http.CanonicalHeaderKey has them.
type fields struct {
	header http.Header
	free   []string // memory for further values
}

// valuesPerAnswer is how many values of its own the answer to a read has, as a rule.
const valuesPerAnswer = 8

func (f *fields) set(name, value string) {
	if len(f.free) == 0 {
		f.free = make([]string, valuesPerAnswer)
	}
	f.free[0] = value
	f.header[name] = f.free[:1:1] // full: who appends to it gets a copy
	f.free = f.free[1:]
}

// Values that many answers share. A header is handed on by reference, and nobody writes into the values.
var (
	valueNoCache     = []string{"no-cache"}
	valueNoSniff     = []string{"nosniff"}
	valueSandbox     = []string{"sandbox; default-src 'none'"}
	valueHit         = []string{"larder; hit"}
	valueDefaultType = []string{defaultContentType}
)

// setPlace tells which replica answered, and where in the shard's log the answer belongs. It returns what sets
// further fields.
func setPlace(h http.Header, resp shard.Response) fields {
	f := fields{header: h}
	var buf [64]byte
	text := strconv.AppendUint(buf[:0], uint64(resp.Shard), 10)
	endShard := len(text)
	text = strconv.AppendUint(text, resp.Epoch, 10)
	endEpoch := len(text)
	text = strconv.AppendUint(text, resp.Index, 10)
	text = append(text, '.')
	text = strconv.AppendUint(text, uint64(resp.Position), 10)
	all := string(text)
	f.set("Larder-Shard", all[:endShard])
	f.set("Larder-Epoch", all[endShard:endEpoch])
	f.set("Larder-Index", all[endEpoch:])
	f.set("Larder-Served-By", resp.ServedBy)
	if resp.ForwardedTo != "" {
		f.set("Larder-Forwarded", resp.ForwardedTo)
	}
	return f
}

// protect keeps a browser from treating a value, which is other people's bytes, as a page of ours.
func protect(h http.Header) {
	h["X-Content-Type-Options"] = valueNoSniff
	h["Content-Security-Policy"] = valueSandbox
}
