package load

import (
	"math"
	"math/rand/v2"
)

// zipf draws ranks from 1 to n, rank k in proportion to k^-s, exactly and with nothing to prepare, for any s above 0.
//
// It is the rejection-inversion of W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from
// monotone discrete distributions", ACM TOMACS 6(3), 1996. Its idea: with h(x) = x^-s and H an integral of h, the
// area under h between k-1/2 and k+1/2 is at least h(k), since h is convex. A point that is uniform in that area lies on
// rank k = round(x); it is taken where it is in a part of the strip that has the area h(k), at its right.
//
// math/rand/v2 has the same method, but for s above 1 alone, and YCSB's approximation (Gray et al., "Quickly generating
// billion-record synthetic databases", SIGMOD 1994) is for s below 1 alone and takes a sum over all n.
//
// It is immutable.
type zipf struct {
	n        float64
	s        float64
	low      float64 // H at the left end of rank 1's part, so that this part has the area h(1) = 1
	high     float64 // H(n + 1/2)
	certainN float64 // x less than this far below its rank is taken without a further look
}

func newZipf(n uint64, s float64) *zipf {
	z := &zipf{n: float64(n), s: s}
	z.low = z.area(1.5) - 1
	z.high = z.area(z.n + 0.5)
	// The distance between a rank and where its part of the strip begins is least at rank 2.
	z.certainN = 2 - z.inverse(z.area(2.5)-z.height(2))
	return z
}

// height is h.
func (z *zipf) height(x float64) float64 { return math.Exp(-z.s * math.Log(x)) }

// area is H: (x^(1-s) - 1)/(1-s), log x for s = 1.
func (z *zipf) area(x float64) float64 {
	if z.s == 1 {
		return math.Log(x)
	}
	return math.Expm1((1-z.s)*math.Log(x)) / (1 - z.s)
}

// inverse is that of area.
func (z *zipf) inverse(a float64) float64 {
	if z.s == 1 {
		return math.Exp(a)
	}
	return math.Exp(math.Log1p(a*(1-z.s)) / (1 - z.s))
}

// next draws a rank.
func (z *zipf) next(rng *rand.Rand) uint64 {
	for {
		a := z.low + rng.Float64()*(z.high-z.low)
		x := z.inverse(a)
		k := min(max(math.Round(x), 1), z.n)
		if k-x <= z.certainN || a >= z.area(k+0.5)-z.height(k) {
			return uint64(k)
		}
	}
}
