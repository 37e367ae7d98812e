package gossip

// rule names a rule that tests leave out, to show what goes wrong without it.
type rule int

const (
	noRule        rule = iota
	ruleVoid           // the document of a node that was held for gone counts for nothing
	ruleHanded         // until the node itself has handed over a current one
	ruleJump           // a node jumps above a newer document that it has signed
	ruleContested      // and stops when that does not end
	ruleFew            // among few others a node tells each of them its news itself
)
