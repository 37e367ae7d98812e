package statusbranch

import "time"

// budget is a token bucket (it allows perMinute pushes in any minute, some of them at once after a
// quiet time). It belongs to one goroutine.
type budget struct {
	burst  int
	refill time.Duration // of one token
	tokens int
	since  time.Time // when the bucket last gained a token, or was full
}

func newBudget(perMinute int) budget {
	// burst + minute/refill is perMinute, so that no minute sees more.
	burst := max(1, perMinute/3)
	b := budget{burst: burst, tokens: burst, refill: time.Minute / time.Duration(perMinute)}
	if burst > 1 {
		b.refill = time.Minute / time.Duration(perMinute-burst)
	}
	return b
}

// wait is how long until there is a token; 0 when there is one.
func (b *budget) wait(now time.Time) time.Duration {
	b.gain(now)
	if b.tokens > 0 {
		return 0
	}
	return b.since.Add(b.refill).Sub(now)
}

// take spends a token that wait has promised.
func (b *budget) take(now time.Time) {
	b.gain(now)
	b.tokens = max(0, b.tokens-1)
}

// drain spends all tokens: another writer may just have spent as many.
func (b *budget) drain(now time.Time) {
	b.gain(now)
	b.tokens, b.since = 0, now
}

func (b *budget) gain(now time.Time) {
	if b.tokens == b.burst {
		b.since = now
		return
	}
	if n := int(now.Sub(b.since) / b.refill); n > 0 {
		b.tokens = min(b.burst, b.tokens+n)
		b.since = b.since.Add(time.Duration(n) * b.refill)
	}
}
