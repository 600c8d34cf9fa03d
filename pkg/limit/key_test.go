package limit

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// A million addresses that one customer has are one key, of one size.
func TestMillionAddressesAreOneKey(t *testing.T) {
	t.Parallel()
	keys := map[string]bool{}
	a := netip.MustParseAddr("2001:db8:1:2::").As16()
	for i := range uint64(1_000_000) {
		binary.BigEndian.PutUint64(a[8:], i*0x9E3779B97F4A7C15)
		k := Try{Address: netip.AddrFrom16(a)}.address()
		keys[string(k)] = true
		if len(k) != 1+hashBytes {
			t.Fatalf("a key of %d bytes", len(k))
		}
	}
	if len(keys) != 1 {
		t.Errorf("%d keys", len(keys))
	}
}

func TestAddressKeys(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		one, other string
		same       bool
	}{
		"two of IPv4":          {"192.0.2.1", "192.0.2.2", false},
		"IPv4 inside IPv6":     {"192.0.2.1", "::ffff:192.0.2.1", true},
		"one network of IPv6":  {"2001:db8::1", "2001:db8::ffff:0:0:1", true},
		"two networks of IPv6": {"2001:db8::1", "2001:db8:0:1::1", false},
		"with a zone":          {"fe80::1%eth0", "fe80::1%eth1", true},
	} {
		one, other := Try{Address: netip.MustParseAddr(tc.one)}.address(), Try{Address: netip.MustParseAddr(tc.other)}.address()
		if (string(one) == string(other)) != tc.same {
			t.Errorf("%s: %x and %x", name, one, other)
		}
	}
	unknown := Try{}.address()
	if string(unknown) != string(Try{Address: netip.Addr{}}.address()) || unknown.kind() != byAddress {
		t.Error("unknown addresses are not one")
	}
}
