package main

import (
	"github.com/spf13/pflag"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/gitsync/repository"
	"github.com/pleachdev/pleach/gitsync/trust"
)

// identity is the person who asks for a pod of another node.
type identity struct{ key string }

func (i *identity) flags(f *pflag.FlagSet) {
	f.StringVar(&i.key, "identity", "", "for pods of other nodes, an SSH key's file; git's user.signingkey, the ssh-agent's or ~/.ssh's when not given")
}

// signing is c with this person's key, which is looked for when it is needed.
func (i *identity) signing(c *api.Client) *api.Client {
	c.Key = func() (*trust.SigningKey, error) { return repository.UserKey(i.key) }
	return c
}
