// Package cgroup2 holds the end-to-end test of a node on a kernel whose only hierarchy of control
// groups is that of cgroup v2. It boots Debian's own kernel in a virtual machine that QEMU emulates,
// so that the kernel under the test and the rights of the machine do not matter. The machine reaches
// a Git server and a registry of the lab through QEMU's user network; its first program is
// e2e/cgroup2/guest.
package cgroup2
