package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
)

// Errors of brokers that do not show or change their list of rights.
var (
	// ErrNoAuthorizer says that the brokers have no such list: everybody may do everything.
	ErrNoAuthorizer = errors.New("the brokers have no authorizer, so everybody may do everything and no right can be granted")
	// ErrMayNotPlan says that this login may not read the list.
	ErrMayNotPlan = errors.New("this login may not look at rights: it needs Describe on the cluster, which the operator's principal has")
	// ErrMayNotGrant says that this login may not change it.
	ErrMayNotGrant = errors.New("this login may not grant rights: it needs Alter on the cluster, as super users of the brokers have")
)

// PlanACLs compares the brokers' list of rights with what the parties need. It changes
// nothing. Beside ErrNoAuthorizer and ErrMayNotPlan it fails with what Rights.ACLs fails with.
func (c *Client) PlanACLs(ctx context.Context, rights Rights) (RightsPlan, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	want, err := rights.ACLs()
	if err != nil {
		return RightsPlan{}, err
	}
	return c.planACLs(ctx, rights, want)
}

func (c *Client) planACLs(ctx context.Context, rights Rights, want []ACL) (RightsPlan, error) {
	var have []ACL
	for _, principal := range append(rights.all(), everybody) {
		listed, err := c.listACLs(ctx, principal)
		if err != nil {
			return RightsPlan{}, err
		}
		have = append(have, listed...)
	}
	return rights.compare(want, have), nil
}

// EnsureACLs grants what is missing and, with prune, takes away what is superfluous. It
// returns what it found before, when a broker shows that nothing is left to do. Rights are
// granted before any is taken away. It is safe to call from several processes at once and
// to repeat after a failure. Beside the errors of PlanACLs it fails with ErrMayNotGrant.
func (c *Client) EnsureACLs(ctx context.Context, rights Rights, prune bool) (RightsPlan, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	want, err := rights.ACLs()
	if err != nil {
		return RightsPlan{}, err
	}
	found, err := c.planACLs(ctx, rights, want)
	if err != nil {
		return RightsPlan{}, err
	}
	if err := c.createACLs(ctx, found.Missing); err != nil {
		return found, err
	}
	if prune {
		if err := c.deleteACLs(ctx, found.Superfluous); err != nil {
			return found, err
		}
	}
	// The controller has it; each broker hears of it a little later.
	b := backoff{low: 5 * time.Millisecond, high: 200 * time.Millisecond}
	for {
		now, err := c.planACLs(ctx, rights, want)
		if err == nil && len(now.Missing) == 0 && (!prune || len(now.Superfluous) == 0) {
			return found, nil
		}
		if err == nil {
			err = fmt.Errorf("%d missing, %d superfluous", len(now.Missing), len(now.Superfluous))
		}
		if !Retriable(err) {
			return found, err
		}
		if !b.wait(ctx) {
			return found, fmt.Errorf("wait until the brokers show the rights: %w: %w", ctx.Err(), err)
		}
	}
}

// everybody is the principal whose entries hold for all.
const everybody = "User:*"

func (c *Client) listACLs(ctx context.Context, principal string) ([]ACL, error) {
	res, err := c.admin.DescribeACLs(ctx, &kafka.DescribeACLsRequest{Filter: kafka.ACLFilter{
		ResourceTypeFilter: kafka.ResourceTypeAny, ResourcePatternTypeFilter: kafka.PatternTypeAny,
		PrincipalFilter: principal, Operation: kafka.ACLOperationTypeAny, PermissionType: kafka.ACLPermissionTypeAny,
	}})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return nil, fmt.Errorf("list rights of %s: %w", principal, aclError(err, ErrMayNotPlan))
	}
	var acls []ACL
	for _, r := range res.Resources {
		for _, a := range r.ACLs {
			acls = append(acls, ACL{
				Principal: a.Principal, Host: a.Host,
				Resource: Resource(r.ResourceType.String()), Name: r.ResourceName, Prefixed: r.PatternType == kafka.PatternTypePrefixed,
				Operation: Operation(a.Operation.String()), Deny: a.PermissionType == kafka.ACLPermissionTypeDeny,
			})
		}
	}
	return acls, nil
}

func (c *Client) createACLs(ctx context.Context, acls []ACL) error {
	if len(acls) == 0 {
		return nil
	}
	req := &kafka.CreateACLsRequest{}
	for _, a := range acls {
		e, err := a.entry()
		if err != nil {
			return err
		}
		req.ACLs = append(req.ACLs, e)
	}
	res, err := c.admin.CreateACLs(ctx, req)
	if err != nil {
		return fmt.Errorf("grant rights: %w", err)
	}
	if len(res.Errors) != len(acls) {
		return fmt.Errorf("grant rights: %d answers to %d entries", len(res.Errors), len(acls))
	}
	for i, err := range res.Errors {
		if err != nil {
			return fmt.Errorf("grant %q: %w", acls[i], aclError(err, ErrMayNotGrant))
		}
	}
	return nil
}

func (c *Client) deleteACLs(ctx context.Context, acls []ACL) error {
	if len(acls) == 0 {
		return nil
	}
	req := &kafka.DeleteACLsRequest{}
	for _, a := range acls {
		e, err := a.entry()
		if err != nil {
			return err
		}
		// Every field is named, so each filter finds one entry at most.
		req.Filters = append(req.Filters, kafka.DeleteACLsFilter{
			ResourceTypeFilter: e.ResourceType, ResourceNameFilter: e.ResourceName, ResourcePatternTypeFilter: e.ResourcePatternType,
			PrincipalFilter: e.Principal, HostFilter: e.Host, Operation: e.Operation, PermissionType: e.PermissionType,
		})
	}
	res, err := c.admin.DeleteACLs(ctx, req)
	if err != nil {
		return fmt.Errorf("take rights away: %w", err)
	}
	if len(res.Results) != len(acls) {
		return fmt.Errorf("take rights away: %d answers to %d entries", len(res.Results), len(acls))
	}
	for i, r := range res.Results {
		err := r.Error
		for _, m := range r.MatchingACLs {
			err = errors.Join(err, m.Error)
		}
		if err != nil {
			return fmt.Errorf("take away %q: %w", acls[i], aclError(err, ErrMayNotGrant))
		}
	}
	return nil
}

func (a ACL) entry() (kafka.ACLEntry, error) {
	e := kafka.ACLEntry{
		Principal: a.Principal, Host: a.Host, ResourceName: a.Name,
		ResourcePatternType: kafka.PatternTypeLiteral, PermissionType: kafka.ACLPermissionTypeAllow,
	}
	if a.Prefixed {
		e.ResourcePatternType = kafka.PatternTypePrefixed
	}
	if a.Deny {
		e.PermissionType = kafka.ACLPermissionTypeDeny
	}
	err := errors.Join(e.ResourceType.UnmarshalText([]byte(a.Resource)), e.Operation.UnmarshalText([]byte(a.Operation)))
	if err != nil {
		return e, fmt.Errorf("entry %q: %w", a, err)
	}
	return e, nil
}

// aclError puts the brokers' refusals into words that say what to do.
func aclError(err, refused error) error {
	switch {
	case errors.Is(err, kafka.SecurityDisabled):
		return fmt.Errorf("%w: %w", ErrNoAuthorizer, err)
	case errors.Is(err, kafka.ClusterAuthorizationFailed):
		return fmt.Errorf("%w: %w", refused, err)
	default:
		return err
	}
}
