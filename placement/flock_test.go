package placement

// The makers of flocks, which bench_test.go fetches from e2e/shapes.
var (
	Mixed   func(nodes, slots int, seed, percent int64) Input
	Settle  func(in *Input, r Result)
	Balance func(in Input, where func(key string) string) (mean, p99 int64, open int)
)

// flock is a mixed flock, 80 % full.
func flock(nodes, slots int, seed int64) Input { return Mixed(nodes, slots, seed, 80) }

func settle(in *Input, r Result) { Settle(in, r) }
