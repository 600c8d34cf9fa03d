package edge

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// The address that is chosen is what the nearest trusted proxy vouches for: whatever the
// client writes to the left of it, in how many lines, changes nothing; and from a peer that
// is no proxy of ours no header counts.
func FuzzForwardedHeaders(f *testing.F) {
	f.Add("10.0.0.1:5", "203.0.113.7", "198.51.100.9", "https", uint8(1))
	f.Add("10.0.0.1:5", "1.1.1.1, 2.2.2.2", "[2001:db8::1]:443", "http, https", uint8(2))
	f.Add("192.0.2.1:5", "127.0.0.1", "::ffff:10.0.0.1", "https", uint8(0))
	f.Add("[fe80::1%eth0]:5", "unknown, _hidden", "10.0.0.2", "", uint8(3))
	f.Add("", ",,,", "\x00", ",", uint8(10))
	networks, err := ParseProxies([]string{"10.0.0.0/8", "fd00::/8"})
	if err != nil {
		f.Fatal(err)
	}
	request := func(remote string, forwarded, proto []string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = remote
		r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"] = forwarded, proto
		return r
	}
	f.Fuzz(func(t *testing.T, remote, forged, vouched, proto string, hops uint8) {
		for _, p := range []Proxies{networks, {hops: int(hops % (maxHops + 1))}, {}} {
			bare := p.client(request(remote, nil, nil))
			if got := bare.Addr; got.Zone() != "" || got.Is4In6() {
				t.Fatalf("%q is not in its plain form", got)
			}
			whole := p.client(request(remote, []string{forged, vouched}, []string{proto}))
			if whole.Addr.Zone() != "" || whole.Addr.Is4In6() {
				t.Fatalf("%q is not in its plain form", whole.Addr)
			}
			if p.hops == 0 && !p.trusts(peer(request(remote, nil, nil))) && whole != bare {
				t.Fatalf("from %q, no proxy, headers make %+v of %+v", remote, whole, bare)
			}
			// In one line or two: the same list.
			if line := p.client(request(remote, []string{forged + "," + vouched}, []string{proto})); line != whole {
				t.Fatalf("in one line %+v, in two %+v", line, whole)
			}
			// The address is the connection's or stands in the header, no further left than the
			// hops reach.
			all := entries([]string{forged, vouched})
			reach := len(all)
			if p.networks == nil {
				reach = min(p.hops, len(all))
			}
			from := whole.Addr == bare.Addr
			for _, entry := range all[len(all)-reach:] {
				addr, ok := parseHop(entry)
				from = from || ok && addr == whole.Addr
			}
			if !from {
				t.Fatalf("%v stands nowhere that is trusted: %q, %q from %q", whole.Addr, forged, vouched, remote)
			}
			// Where the last entry is a client's address, nothing to its left is looked at.
			if addr, ok := parseHop(strings.TrimSpace(vouched)); ok && !strings.Contains(vouched, ",") && p.networks != nil && !p.trusts(addr) {
				if other := p.client(request(remote, []string{"192.0.2.66, 10.9.9.9", vouched}, []string{proto})); other.Addr != whole.Addr {
					t.Fatalf("what is left of %q makes %v of %v", vouched, other.Addr, whole.Addr)
				}
			}
		}
	})
}

// An origin is admitted only when browsers' reading of it is one that is listed: its scheme,
// and its host as a whole or below the pattern's domain.
func FuzzOrigin(f *testing.F) {
	for _, value := range []string{
		"https://app.example.com", "https://a.example.org", "https://example.org", "https://app.example.com.evil.test", "https://evil.test/app.example.com",
		"https://app.example.com@evil.test", "https://evil.test#app.example.com", "null", "", "https://app.example.com:8443", "HTTPS://APP.EXAMPLE.COM",
		"http://app.example.com", "https://evilexample.org", "https://.example.org", "https://app.example.com, https://evil.test", "https://app.example.com\\@evil.test",
		"https://app.example.com/", "//app.example.com", "https://x@a.example.org", "https://[::1]",
	} {
		f.Add(value)
	}
	listed, err := ParseOrigins([]string{"https://app.example.com", "https://*.example.org"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if !listed.Admit(value) {
			return
		}
		// Written as a browser would, the origin is the value itself.
		scheme, host, ok := strings.Cut(strings.ToLower(value), "://")
		if !ok || scheme != "https" || host != "app.example.com" && !strings.HasSuffix(host, ".example.org") {
			t.Fatalf("%q is admitted", value)
		}
		if strings.ContainsAny(host, "/\\@#?:, \t\r\n") {
			t.Fatalf("%q is admitted, which is more than a host", value)
		}
		if u, err := url.Parse(value); err != nil || u.User != nil || u.Path != "" {
			t.Fatalf("%q is admitted: %v, %v", value, u, err)
		}
		if (Origins{}).Admit(value) {
			t.Fatalf("an empty list admits %q", value)
		}
	})
}

// A version that is read compares with itself as the same and has the same text's parts
// whatever is appended; nothing panics or is negative.
func FuzzVersion(f *testing.F) {
	for _, s := range []string{"2.4.1", "2", "2.4", "2.4.1-beta.2", "2.4.1+512", "2.4.1.512", "", ".", "-1", "99999999999", "1..2", "٣", "2.4 (x)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVersion(s)
		if err != nil {
			if len(err.Error()) > 300 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if v.Compare(v) != 0 || v[0] < 0 || v[1] < 0 || v[2] < 0 {
			t.Fatalf("%q is %v", s, v)
		}
		next := Version{v[0], v[1], v[2] + 1}
		if v.Compare(next) >= 0 || next.Compare(v) <= 0 {
			t.Fatalf("%v is not before %v", v, next)
		}
		if again, err := ParseVersion(s + "-rc.1"); err != nil || again != v {
			t.Fatalf("%q is %v, with an addition %v, %v", s, v, again, err)
		}
	})
}

// A token comes out whole or not at all, of one header alone, and is never a part of
// another scheme.
func FuzzBearerToken(f *testing.F) {
	for _, s := range []string{"Bearer x", "bearer x", "Bearer", "Bearer ", "Basic x", "Bearer  x", "Bearer x y", "", "BEARER\tx"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r := &http.Request{Header: http.Header{"Authorization": {value}}}
		token, ok := BearerToken(r)
		if ok != (len(value) > 7 && strings.EqualFold(value[:7], "Bearer ")) {
			t.Fatalf("%q: %v", value, ok)
		}
		if ok && value[7:] != token {
			t.Fatalf("%q holds %q", value, token)
		}
		r.Header.Add("Authorization", value)
		if _, ok := BearerToken(r); ok {
			t.Fatalf("%q twice is accepted", value)
		}
	})
}

// An address that comes through the list of proxies and back is itself.
func FuzzParseProxies(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "::1", "0.0.0.0/0", "3", "-1", "11", "fe80::1%eth0", "10.0.0.1/33", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		p, err := ParseProxies([]string{value})
		if err != nil {
			return
		}
		if p.hops < 0 || p.hops > maxHops {
			t.Fatalf("%q: %d hops", value, p.hops)
		}
		for _, network := range p.networks {
			if network.Bits() <= 0 || p.trusts(netip.Addr{}) {
				t.Fatalf("%q trusts everybody, or nobody in particular", value)
			}
			if !p.trusts(network.Addr()) {
				t.Fatalf("%q does not trust %v", value, network.Addr())
			}
		}
	})
}
