package local

// Leads counts what each node leads, of the leaders of shards; "" is none.
func Leads(leaders map[uint64]string) map[string]int {
	count := map[string]int{}
	for _, leader := range leaders {
		count[leader]++
	}
	return count
}

// Spread reports whether all of the shards have leaders, and no node leads two shards more than another one.
func Spread(leaders map[uint64]string, nodes []string) bool {
	count := Leads(leaders)
	low, high := len(leaders), 0
	for _, node := range nodes {
		low, high = min(low, count[node]), max(high, count[node])
	}
	return count[""] == 0 && high-low <= 1
}
