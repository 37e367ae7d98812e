package placement

import "math/bits"

// Hash is FNV-1a, finished by a mixer because FNV's high bits are weak on short names. Rendezvous orders
// of all kinds are drawn with it. Being in the plan, it may never change within a spec.version.
func Hash(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return mix(h)
}

// mix is the finalizer of MurmurHash3.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// draw is the slot's ticket at a node: the largest ticket of equal weights comes first. a and b are
// two hashes of the slot, b odd, n one of the node. The upper bits of such a product are a
// universal hash (Dietzfelbinger et al. 1997), at the price of one multiplication.
func draw(a, b, n uint64) uint64 {
	return (a ^ n) * b
}

// cost turns a ticket into straw2's length, -log2(ticket/2^64)/weight, smallest first: a node of
// twice the weight comes first twice as often, and a change of one node's weight moves slots only
// to or from that node.
func cost(ticket uint64, weight int64) uint64 {
	return (64<<logBits - log2(ticket)) << 24 / uint64(weight)
}

// atLeast returns a ticket below which a node of this weight costs more than most. It is not the
// highest such ticket.
func atLeast(most uint64, weight int64) uint64 {
	hi, lo := bits.Mul64(most+1, uint64(weight))
	length := hi<<40 | lo>>24 // of cost, before it is divided
	if hi>>24 > 0 || length >= 63<<logBits {
		return 0
	}
	digits := 64<<logBits - length - 1<<logBits/log2Steps // what log2 may be off by, and more
	n, rest := digits>>logBits, digits&(1<<logBits-1)
	// 2^x is at least 1 + x·ln 2.
	return (1<<logBits + rest*ln2>>logBits) << 31 >> (63 - n)
}

// ln2 is the natural logarithm of 2, with logBits digits, rounded down.
const ln2 = 0xB17217F7

// quantise rounds a weight to four significant bits, so that nodes whose allocatable differs by
// little draw in one group. The result is in [1, 2^20].
func quantise(weight int64) int64 {
	weight = min(max(weight, 1), 1<<20)
	if n := bits.Len64(uint64(weight)); n > 4 {
		shift := n - 4
		weight = weight >> shift << shift
	}
	return weight
}

// logBits is the number of binary digits after the point of log2.
const logBits = 32

// log2Steps divides an octave; between two steps log2 is interpolated.
const log2Steps = 1 << 8

// log2Table holds log2(1 + i/log2Steps) with logBits digits, by repeated squaring.
var log2Table = func() (t [log2Steps + 1]uint64) {
	for i := range t {
		if i == log2Steps {
			t[i] = 1 << logBits
			break
		}
		x := uint64(1)<<62 + uint64(i)<<54 // mantissa in [1, 2), 62 digits
		for range logBits {
			hi, lo := bits.Mul64(x, x)
			x = hi<<2 | lo>>62
			t[i] <<= 1
			if x >= 1<<63 {
				x >>= 1
				t[i] |= 1
			}
		}
	}
	return t
}()

// log2 returns the binary logarithm of x (0 counts as 1) with logBits digits. It is integer
// arithmetic because the Go specification lets compilers fuse floating-point operations, so that
// two architectures may disagree.
func log2(x uint64) uint64 {
	x = max(x, 1)
	n := uint64(bits.Len64(x)) - 1
	mantissa := x << (63 - n) // top bit set
	i := mantissa << 1 >> 56  // the next 8 bits
	rest := mantissa << 9 >> 32
	return n<<logBits + log2Table[i] + (log2Table[i+1]-log2Table[i])*rest>>32
}
