package identity

// CachedTokens returns how many verified tokens v remembers.
func CachedTokens(v *Verifier) int {
	v.verified.CleanUp()
	return v.verified.EstimatedSize()
}

// Occupy takes a hashing slot until the returned function is called.
func Occupy(p *Passwords) (release func()) {
	p.slots <- struct{}{}
	return p.release
}

// Waiting returns how many callers wait for a hashing slot.
func Waiting(p *Passwords) int64 { return p.waiting.Load() }

// Reload is reload, which Watch calls.
func (k *Keys) Reload() (bool, error) { return k.reload() }
