// Package flock tests several nodes that agree: real agents on machines of the laboratory, a Git server
// and a registry between them, and faults.
package flock
