package load

import (
	"io"
	"net/http"
	"testing"
)

// BenchmarkGet compares what a read costs with what it costs by net/http, server included in both.
func BenchmarkGet(b *testing.B) {
	addr := server(b, hit)
	b.Run("raw", func(b *testing.B) {
		c := connect(b, addr)
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Get(b.Context(), []byte("bench-0000000000")); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("net-http", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			resp, err := http.Get("http://" + addr + "/v1/kv/bench-0000000000")
			if err != nil {
				b.Fatal(err)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
