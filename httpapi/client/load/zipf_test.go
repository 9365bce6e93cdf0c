package load

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestZipf ensures that ranks come as often as the formula says: chi-squared stays within six standard deviations of its mean.
func TestZipf(t *testing.T) {
	const draws = 300_000
	for _, n := range []uint64{1, 2, 3, 100, 5000} {
		for _, s := range []float64{0.01, 0.5, 0.99, 1, 1.01, 2, 5} {
			rng := rand.New(rand.NewPCG(1, n))
			z := newZipf(n, s)
			counts := make([]float64, n+1)
			for range draws {
				k := z.next(rng)
				if k < 1 || k > n {
					t.Fatalf("n %d, s %g: got rank %d", n, s, k)
				}
				counts[k]++
			}
			sum := 0.0
			for k := uint64(1); k <= n; k++ {
				sum += math.Pow(float64(k), -s)
			}
			// Ranks are joined until some draws are expected of them.
			var chi, want, got float64
			classes := 0
			for k := uint64(1); k <= n; k++ {
				want += draws * math.Pow(float64(k), -s) / sum
				got += counts[k]
				if want >= 20 || k == n && want > 0 {
					chi += (got - want) * (got - want) / max(want, 1)
					want, got = 0, 0
					classes++
				}
			}
			freedom := float64(classes - 1)
			if limit := freedom + 6*math.Sqrt(2*max(freedom, 1)); chi > limit {
				t.Errorf("n %d, s %g: chi-squared is %.1f with %g degrees of freedom, more than %.1f", n, s, chi, freedom, limit)
			}
		}
	}
}

// TestZipfOfMany ensures that the most popular of ten billion keys has its share too, where sums can't be taken.
func TestZipfOfMany(t *testing.T) {
	const s, draws = 0.99, 200_000
	z, rng := newZipf(MaxKeys, s), rand.New(rand.NewPCG(1, 2))
	first := 0.0
	for range draws {
		if z.next(rng) == 1 {
			first++
		}
	}
	// Euler-Maclaurin: the sum to n of k^-s is about zeta(s) + n^(1-s)/(1-s), zeta(0.99) = -99.4235.
	share := 1 / (-99.4235 + math.Pow(MaxKeys, 1-s)/(1-s))
	if want := draws * share; math.Abs(first-want) > 6*math.Sqrt(want) {
		t.Errorf("rank 1 came %.0f times, want about %.0f", first, want)
	}
}
