package sim

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// start is when every life begins.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// clock is simulated time: a queue of what is to happen. What is due at one time happens in the order
// in which it was asked for.
type clock struct {
	now   time.Duration // since start
	queue agenda
	count int
}

type appointment struct {
	at    time.Duration
	order int
	do    func()
}

// at does something at a time; what is past happens next.
func (c *clock) at(t time.Duration, do func()) {
	c.count++
	c.queue.push(appointment{max(t, c.now), c.count, do})
}

func (c *clock) after(d time.Duration, do func()) { c.at(c.now+d, do) }

// run lets the time pass until t.
func (c *clock) run(t time.Duration) {
	for len(c.queue) > 0 && c.queue[0].at <= t {
		next := c.queue.pop()
		c.now = next.at
		next.do()
	}
	c.now = t
}

// agenda is a heap by time and order: each before the four that follow from its index. It does what
// container/heap does without making an interface of every appointment.
type agenda []appointment

func (x *appointment) before(y *appointment) bool {
	return x.at < y.at || x.at == y.at && x.order < y.order
}

func (a *agenda) push(x appointment) {
	*a = append(*a, x)
	h := *a
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !x.before(&h[up]) {
			break
		}
		h[i], i = h[up], up
	}
	h[i] = x
}

func (a *agenda) pop() appointment {
	h := *a
	first, x := h[0], h[len(h)-1]
	h[len(h)-1] = appointment{}
	h = h[:len(h)-1]
	*a = h
	for i := 0; len(h) > 0; {
		least := 4*i + 1
		for j := least + 1; j < min(4*i+5, len(h)); j++ {
			if h[j].before(&h[least]) {
				least = j
			}
		}
		if least >= len(h) || !h[least].before(&x) {
			h[i] = x
			break
		}
		h[i], i = h[least], least
	}
	return first
}

// watch is one machine's clock: it goes too fast or too slow, and was set a little wrong.
type watch struct {
	offset time.Duration
	drift  float64 // seconds gained in a second
}

// read is what the watch shows at t.
func (w watch) read(t time.Duration) time.Time {
	return start.Add(w.offset + t + time.Duration(float64(t)*w.drift))
}

// when is the time at which the watch shows x.
func (w watch) when(x time.Time) time.Duration {
	return time.Duration(float64(x.Sub(start)-w.offset)/(1+w.drift)) + 1
}

// dice returns a source that depends on the seed and what it is for alone, so that leaving out one
// fault changes nothing of the chances of others.
func dice(seed uint64, what string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(what))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// upTo draws a duration from [0, d).
func upTo(r *rand.Rand, d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(r.Int64N(int64(d)))
}
