package load

import (
	"math/rand/v2"
)

// keyPrefix begins all keys, which have keyDigits digits after it: 16 bytes.
const (
	keyPrefix = "bench-"
	keyDigits = 10
	// KeySize is the length of all keys, bytes.
	KeySize = len(keyPrefix) + keyDigits
)

// chooser chooses requests for one client.
type chooser struct {
	rng    *rand.Rand
	keys   uint64
	zipf   *zipf // nil: all keys alike
	reads  float64
	values values
	key    []byte
}

// newChooser returns the choices of a client, which are the same for the same seed. z may be shared.
func newChooser(cfg *Config, client int, z *zipf, v values) *chooser {
	return &chooser{
		rng:  rand.New(rand.NewPCG(cfg.Seed, uint64(client))),
		keys: cfg.Keys, zipf: z, reads: cfg.Reads / 100, values: v,
		key: []byte(keyPrefix + "0000000000"),
	}
}

func (c *chooser) read() bool { return c.rng.Float64() < c.reads }

// nextKey returns a key, which is valid until the next one.
func (c *chooser) nextKey() []byte {
	if c.zipf == nil {
		return c.keyAt(c.rng.Uint64N(c.keys))
	}
	return c.keyAt(c.zipf.next(c.rng) - 1)
}

// keyAt returns the key of a number. Numbers are ranks: the hash of slots spreads the popular ones over shards.
func (c *chooser) keyAt(number uint64) []byte {
	for i := len(c.key) - 1; i >= len(keyPrefix); i-- {
		c.key[i] = byte('0' + number%10)
		number /= 10
	}
	return c.key
}

func (c *chooser) value() []byte { return c.values.next(c.rng) }

// values are parts of one run of random bytes, which no server can compress.
type values struct {
	bytes    []byte
	min, max int
}

// spare is how many bytes there are beyond the longest value: where values may begin.
const spare = 4096

func newValues(cfg *Config) values {
	b := make([]byte, cfg.MaxValue+spare)
	rng := rand.New(rand.NewPCG(cfg.Seed, ^uint64(0)))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return values{bytes: b, min: cfg.MinValue, max: cfg.MaxValue}
}

func (v values) next(rng *rand.Rand) []byte {
	size := v.min
	if v.max > v.min {
		size += rng.IntN(v.max - v.min + 1)
	}
	from := rng.IntN(spare)
	return v.bytes[from : from+size]
}
