package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/identity"
)

func keysCommand(term terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "keys",
		Short: "List and rotate the keys that sign access tokens",
		Long: "List and rotate the keys that sign access tokens: those of JWT_PRIVATE_KEY_FILE, or of DATA_DIR\n" +
			"outside production.",
		Args: cobra.NoArgs,
	}
	root.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "List the keys that are accepted, and which one signs",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := term.load()
			if err != nil {
				return err
			}
			keys, err := identity.LoadKeys(keyFile(cfg))
			if err != nil {
				return err
			}
			return printKeys(term.stdout, keys)
		},
	}, &cobra.Command{
		Use:   "rotate",
		Short: "Put a new key first and keep the one that signed behind it; nobody is signed out",
		Long: "Put a new key first and keep the one that signed behind it; nobody is signed out. Running processes read\n" +
			"the file again by themselves within seconds and sign with the new key after two minutes. Rotate again when\n" +
			"the last rotation is 17 minutes old: then the oldest key, whose tokens have all expired, goes. Where the\n" +
			"file is delivered from elsewhere, rotate a copy and deliver that.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := term.load()
			if err != nil {
				return err
			}
			keys, err := identity.Rotate(keyFile(cfg), time.Now())
			if errors.Is(err, identity.ErrTooSoon) {
				return fmt.Errorf("%w: tokens of the key that would go may be alive", err)
			}
			if err != nil {
				return err
			}
			return printKeys(term.stdout, keys)
		},
	})
	return root
}

func keyFile(cfg config.Config) string {
	if cfg.JWTPrivateKeyFile != "" {
		return cfg.JWTPrivateKeyFile
	}
	return identity.DevelopmentKeyFile(cfg.DataDir)
}

func printKeys(to io.Writer, keys *identity.Keys) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "KEY\tBITS\tUSE")
	for _, k := range keys.List(time.Now()) {
		use := "accepted"
		if k.Signs {
			use = "signs"
		}
		fmt.Fprintf(out, "%s\t%d\t%s\n", k.ID, k.Bits, use)
	}
	return out.Flush()
}
