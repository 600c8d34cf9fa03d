package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/bondmate/backend/ingest/admin"
	"github.com/bondmate/backend/pkg/identity"
)

func usersCommand(term terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "users",
		Short: "Look at accounts, suspend them, change tier, slots and role",
		Long: "Look at accounts, suspend them, change their tier, slots and role. A user is named by e-mail address or id. What is done or\n" +
			"looked at here is in the activity log, with the machine and the login.",
		Args: cobra.NoArgs,
	}
	root.AddCommand(showUserCommand(term), promoteUserCommand(term), suspendUserCommand(term), unsuspendUserCommand(term),
		tierCommand(term), slotsCommand(term))
	return root
}

// onUser is a command about one user.
func onUser(term terminal, do func(context.Context, *admin.Service, admin.Actor, uuid.UUID) (admin.User, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return console(cmd.Context(), term, func(ctx context.Context, s *admin.Service, actor admin.Actor) error {
			id, err := s.FindUser(ctx, args[0])
			if err != nil {
				return err
			}
			u, err := do(ctx, s, actor, id)
			if err != nil {
				return err
			}
			return printUser(term.stdout, u)
		})
	}
}

func showUserCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "show <email|id>",
		Short: "Show an account",
		Args:  cobra.ExactArgs(1),
		RunE: onUser(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) (admin.User, error) {
			return s.ShowUser(ctx, actor, id)
		}),
	}
}

func promoteUserCommand(term terminal) *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "promote <email|id> --role admin|support|user",
		Short: "Give an account a role; it holds at once, also for sessions that are open",
		Long: "Give an account a role: support reads under /api/ops, admin also changes. The first administrator is\n" +
			"made here: register an account like any other, then promote it. `--role user` takes a role away.",
		Args: cobra.ExactArgs(1),
		RunE: onUser(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) (admin.User, error) {
			to, err := identity.ParseRole(role)
			if err != nil {
				return admin.User{}, fmt.Errorf("--role: %w", err)
			}
			return s.SetRole(ctx, actor, id, to)
		}),
	}
	cmd.Flags().StringVar(&role, "role", "", "admin, support or user")
	_ = cmd.MarkFlagRequired("role") // the flag is there
	return cmd
}

func suspendUserCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "suspend <email|id>",
		Short: "Keep a user out: sessions end, pushes stop, nobody can log in",
		Long: "Keep a user out: sessions end, pushes stop, nobody can log in, and what the user has queued is rejected,\n" +
			"save a leave, a block and a deletion. Partnerships stay, and the partner can leave as ever.",
		Args: cobra.ExactArgs(1),
		RunE: onUser(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) (admin.User, error) {
			return s.Suspend(ctx, actor, id)
		}),
	}
}

func unsuspendUserCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "unsuspend <email|id>",
		Short: "Let a suspended user log in again",
		Args:  cobra.ExactArgs(1),
		RunE: onUser(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) (admin.User, error) {
			return s.Unsuspend(ctx, actor, id)
		}),
	}
}

func tierCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "tier <email|id> free|premium",
		Short: "Change what a user pays for; the slots follow, unless their number is set",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			tier, err := admin.ParseTier(args[1])
			if err != nil {
				return err
			}
			return onUser(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) (admin.User, error) {
				return s.SetTier(ctx, actor, id, tier)
			})(cmd, args)
		},
	}
}

func slotsCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "slots <email|id> <total|default>",
		Short: "Set how many slots a user has; default: as many as the tier brings",
		Long: "Set how many slots a user has, whatever the tier brings, until it is set to `default`. Only vacant slots\n" +
			"go. When no vacant one is left, the user's pending requests close as when the last slot fills.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			total := 0
			if args[1] != "default" {
				var err error
				if total, err = strconv.Atoi(args[1]); err != nil || total < 1 {
					return fmt.Errorf("%q is neither a number of slots nor default", args[1])
				}
			}
			return onUser(term, func(ctx context.Context, s *admin.Service, actor admin.Actor, id uuid.UUID) (admin.User, error) {
				return s.SetSlots(ctx, actor, id, total)
			})(cmd, args)
		},
	}
}

func printUser(to io.Writer, u admin.User) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "id\t%s\n", u.ID)
	fmt.Fprintf(out, "name\t%s\n", u.DisplayName)
	fmt.Fprintf(out, "email\t%s\n", u.Email)
	fmt.Fprintf(out, "role\t%s\n", u.Role)
	fmt.Fprintf(out, "tier\t%s\n", u.Tier)
	fmt.Fprintf(out, "status\t%s\n", u.Status)
	fmt.Fprintf(out, "since\t%s\n", u.CreatedAt.UTC().Format(time.RFC3339))
	slots := fmt.Sprintf("%d, %d occupied", u.Slots.Total, u.Slots.Occupied)
	if u.SlotsSet > 0 {
		slots += fmt.Sprintf("; set to %d", u.SlotsSet)
	}
	fmt.Fprintf(out, "slots\t%s\n", slots)
	fmt.Fprintf(out, "sessions\t%d\n", u.Sessions)
	fmt.Fprintf(out, "devices\t%d\n", u.Devices)
	fmt.Fprintf(out, "reports\t%d about, %d of them open; %d made\n", u.Reports.About, u.Reports.Open, u.Reports.By)
	return out.Flush()
}
