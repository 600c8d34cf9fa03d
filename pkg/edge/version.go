package edge

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version is an app's version: major, minor, patch.
type Version [3]int

// ParseVersion reads 2, 2.4 or 2.4.1, what store builds add behind it (2.4.1-beta.2,
// 2.4.1+512, 2.4.1.512) left out.
func ParseVersion(s string) (Version, error) {
	var v Version
	bad := fmt.Errorf("%q is not a version such as 2.4.1", s[:min(len(s), 40)])
	if end := strings.IndexAny(s, "-+ "); end >= 0 {
		s = s[:end]
	}
	for i, part := range strings.Split(s, ".") {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return Version{}, bad
		}
		if i < len(v) {
			v[i] = int(n)
		}
	}
	return v, nil
}

// Compare returns a negative number when v is older than other, and zero when they are the same.
func (v Version) Compare(other Version) int {
	for i := range v {
		if c := cmp.Compare(v[i], other[i]); c != 0 {
			return c
		}
	}
	return 0
}

// IsZero reports whether it is no version at all.
func (v Version) IsZero() bool { return v == Version{} }
