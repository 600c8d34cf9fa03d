package edge

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// Client is who sent a request, as far as trusted proxies vouch for it.
type Client struct {
	Addr  netip.Addr // the zero Addr when not even the connection tells
	HTTPS bool       // whether the client's own connection was encrypted
}

// Proxies says which hops before this server are ours. The zero value trusts none.
type Proxies struct {
	networks []netip.Prefix
	hops     int // instead of networks: how many hops there are, this server's peer being the first
}

// maxHops bounds how far a number of hops may reach.
const maxHops = 10

// ParseProxies reads a list of addresses and networks (10.0.0.0/8), or one number: how many
// proxies there are in front of this server, where their addresses aren't known.
func ParseProxies(values []string) (Proxies, error) {
	if len(values) == 1 {
		if hops, err := strconv.Atoi(values[0]); err == nil {
			if hops < 0 || hops > maxHops {
				return Proxies{}, fmt.Errorf("%d proxies: want 0 to %d", hops, maxHops)
			}
			return Proxies{hops: hops}, nil
		}
	}
	var p Proxies
	for _, value := range values {
		prefix, err := netip.ParsePrefix(value)
		if err != nil {
			addr, addrErr := netip.ParseAddr(value)
			if addrErr != nil {
				return Proxies{}, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", value)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		if prefix.Bits() == 0 {
			return Proxies{}, fmt.Errorf("%q trusts everybody: name the proxies' network", value)
		}
		p.networks = append(p.networks, prefix.Masked())
	}
	return p, nil
}

// Any reports whether some proxy is trusted.
func (p Proxies) Any() bool { return p.hops > 0 || len(p.networks) > 0 }

// Vouch reports whether a connection from this address is a trusted proxy's. Where only the
// number of proxies is known, every connection is.
func (p Proxies) Vouch(addr netip.Addr) bool { return p.hops > 0 || p.trusts(plain(addr)) }

func (p Proxies) trusts(addr netip.Addr) bool {
	for _, network := range p.networks {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// resolve finds out who the client is and tells the handlers.
func (p Proxies) resolve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, withClient(r, p.client(r)))
	})
}

// client walks the hops from the right: each trusted proxy appended the address that
// connected to it, so the first that isn't ours is the client, whatever stands left of it.
func (p Proxies) client(r *http.Request) Client {
	c := Client{Addr: peer(r), HTTPS: r.TLS != nil}
	forwarded := entries(r.Header.Values("X-Forwarded-For"))
	vouched := false
	for hop := 1; ; hop++ {
		trusted := hop <= p.hops || p.trusts(c.Addr)
		if !trusted {
			break
		}
		vouched = true
		if len(forwarded) == 0 {
			break
		}
		last := forwarded[len(forwarded)-1]
		forwarded = forwarded[:len(forwarded)-1]
		addr, ok := parseHop(last)
		if !ok {
			break // who wrote this is not known: the hop before it is as far as trust goes
		}
		c.Addr = addr
	}
	if vouched {
		// The rightmost value is the nearest proxy's; further ones could be the client's.
		if schemes := entries(r.Header.Values("X-Forwarded-Proto")); len(schemes) > 0 {
			c.HTTPS = strings.EqualFold(schemes[len(schemes)-1], "https")
		}
	}
	return c
}

// entries splits a list header that may come in several lines.
func entries(lines []string) []string {
	var all []string
	for _, line := range lines {
		for entry := range strings.SplitSeq(line, ",") {
			if entry = strings.TrimSpace(entry); entry != "" {
				all = append(all, entry)
			}
		}
	}
	return all
}

// parseHop reads an address with or without a port, as proxies write it.
func parseHop(s string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return plain(addr), true
	}
	if addr, err := netip.ParseAddrPort(s); err == nil {
		return plain(addr.Addr()), true
	}
	return netip.Addr{}, false
}

// peer is where the connection comes from.
func peer(r *http.Request) netip.Addr {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return plain(addr.Addr())
}

// plain makes one address of the forms that mean the same.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// String returns the address, empty when it isn't known.
func (c Client) String() string {
	if !c.Addr.IsValid() {
		return ""
	}
	return c.Addr.String()
}

// Network is what counts as one client: an IPv4 address, and of IPv6 the /64 that one
// customer has at least. Those that aren't known are one.
func (c Client) Network() netip.Addr { return Network(c.Addr) }

// Network is Client.Network for an address.
func Network(addr netip.Addr) netip.Addr {
	addr = plain(addr)
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return addr
}
