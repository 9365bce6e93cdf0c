package load

import (
	"fmt"
	"time"
)

// Config says what to ask. Zero values stand for nothing but what is said.
type Config struct {
	// Clients is how many there are, each with one request at a time on connections of its own. Required.
	Clients int
	// Rate is how many operations are due in a second, over all clients: an open loop. 0: a closed loop.
	Rate float64
	// Reads is how many of 100 requests are reads; the others are writes.
	Reads float64
	// Batch is how many operations a request carries, all of them reads or all of them writes, of keys that are chosen one by
	// one. Connections must be BatchConns then. 0: a request is an operation.
	Batch int
	// Keys is how many keys there are. Required, at most MaxKeys.
	Keys uint64
	// Zipf is the exponent of the keys' popularity: the key of rank i is asked for in proportion to 1/i^Zipf. 0: all
	// alike. YCSB has 0.99.
	Zipf float64
	// MinValue and MaxValue bound the lengths of values, bytes; each length between them is as likely.
	MinValue, MaxValue int
	// Warmup is not measured. Duration is, after it. Required.
	Warmup, Duration time.Duration
	// Seed of all that is chosen at random.
	Seed uint64
	// Progress is told every second how far a run is. May be nil.
	Progress func(Progress)

	// nap waits precisely for at most maxNap. Default nap; tests in virtual time have time.Sleep.
	nap func(time.Duration)
}

const (
	// MaxKeys is how many keys can be told apart in the ten digits that they have.
	MaxKeys = 10_000_000_000
	// MaxValue is the longest value, bytes.
	MaxValue = 1 << 30
	// MaxZipf is far above what is found anywhere: nearly all requests are for one key.
	MaxZipf = 10.0
	// MaxRate leaves a nanosecond between two requests.
	MaxRate = 1e9
	// MaxBatch is how many operations Larder takes in a batch, and maxBatchBytes how long it may be.
	MaxBatch      = 10_000
	maxBatchBytes = 16 << 20
	// MaxClients is as many as ports of loopback allow.
	MaxClients = 10_000
)

// Validate says what is wrong with cfg.
func (cfg Config) Validate() error {
	switch {
	case cfg.Clients < 1 || cfg.Clients > MaxClients:
		return fmt.Errorf("%d clients: from 1 to %d are possible", cfg.Clients, MaxClients)
	case !(cfg.Rate >= 0 && cfg.Rate <= MaxRate):
		return fmt.Errorf("a rate of %g operations a second: from 0 to %g is possible", cfg.Rate, MaxRate)
	case !(cfg.Reads >= 0 && cfg.Reads <= 100):
		return fmt.Errorf("%g reads among 100 requests", cfg.Reads)
	case cfg.Keys < 1 || cfg.Keys > MaxKeys:
		return fmt.Errorf("%d keys: from 1 to %d are possible", cfg.Keys, uint64(MaxKeys))
	case !(cfg.Zipf >= 0 && cfg.Zipf <= MaxZipf):
		return fmt.Errorf("an exponent of %g for Zipf's law: from 0 to %g is possible", cfg.Zipf, MaxZipf)
	case cfg.MinValue < 0 || cfg.MaxValue < cfg.MinValue || cfg.MaxValue > MaxValue:
		return fmt.Errorf("values of %d to %d bytes: from 0 to %d are possible", cfg.MinValue, cfg.MaxValue, MaxValue)
	case cfg.Batch < 0 || cfg.Batch > MaxBatch:
		return fmt.Errorf("%d operations in a request: from 0 to %d are possible", cfg.Batch, MaxBatch)
	case cfg.Reads < 100 && maxBatchSize(cfg.Batch, cfg.MaxValue) > maxBatchBytes:
		return fmt.Errorf("%d writes of up to %d bytes in a request: %d bytes are possible, as JSON", cfg.Batch, cfg.MaxValue, maxBatchBytes)
	case cfg.Duration <= 0 || cfg.Warmup < 0:
		return fmt.Errorf("a duration of %s after a warm-up of %s", cfg.Duration, cfg.Warmup)
	}
	return nil
}
