// Package node holds the end-to-end tests of one node: a real agent with its own containerd in a
// node of the lab, fed by pushes to a Git server, and watched from outside.
//
// The fixture is in flock_test.go. Every test makes its flocks with newFlock and may run beside the
// others; subtests share their test's flock and run one after the other. The tests need root.
package node
