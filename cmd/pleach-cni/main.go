// Command pleach-cni is the CNI plugin of Pleach: containerd starts it once to give a pod its network
// and once to take it away. It is a program of its own because such a process must start in a few
// milliseconds.
package main

import "github.com/pleachdev/pleach/netplugins/cni"

func main() { cni.Main() }
