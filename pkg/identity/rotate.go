package identity

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// watchEvery is how often the file is looked at: well inside settleFor.
const watchEvery = 5 * time.Second

// Watch reads the keys again whenever their file changes, until ctx ends. A file that is
// not there or not right is told once and changes nothing: the keys from before stay.
func (k *Keys) Watch(ctx context.Context, log *slog.Logger) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		changed, err := k.reload()
		switch {
		case err != nil && err.Error() != told:
			told = err.Error()
			log.ErrorContext(ctx, "signing keys were not read again", "error", err)
		case changed:
			told = ""
			log.InfoContext(ctx, "signing keys were read again", "keys", len(k.JWKS().Keys))
		}
	}
}

// reload reads the file if it is another than the last time.
func (k *Keys) reload() (changed bool, err error) {
	info, err := os.Stat(k.file)
	if err != nil {
		return false, fmt.Errorf("look at signing keys: %w", err)
	}
	now := k.set.Load()
	if info.ModTime().Equal(now.written) && info.Size() == now.size {
		return false, nil
	}
	set, err := readKeys(k.file)
	if err != nil {
		return false, err
	}
	k.set.Store(set)
	return true, nil
}

// KeyInfo is one key of a file.
type KeyInfo struct {
	ID    string
	Bits  int
	Signs bool // now
}

// List returns the keys in the file's order.
func (k *Keys) List(now time.Time) []KeyInfo {
	set := k.set.Load()
	signing := k.SigningID(now)
	list := make([]KeyInfo, len(set.jwks.Keys))
	for i, jwk := range set.jwks.Keys {
		list[i] = KeyInfo{ID: jwk.ID, Bits: set.verifying[jwk.ID].N.BitLen(), Signs: jwk.ID == signing}
	}
	return list
}

// ErrTooSoon is Rotate's answer while a key that it would take out may have tokens alive.
var ErrTooSoon = errors.New("the last rotation is too recent")

// Rotate puts a new key first into a file and keeps the one that signed so far behind it;
// older ones go. The file is replaced whole, readable by its owner only. Tokens stay good
// throughout: instances that watch the file know the new key before it signs, and a key goes
// only when its last token has expired, else Rotate fails with ErrTooSoon.
func Rotate(file string, now time.Time) (*Keys, error) {
	old, err := LoadKeys(file)
	if err != nil {
		return nil, err
	}
	set := old.set.Load()
	if again := set.written.Add(settleFor + DefaultTTL); len(set.verifying) > 1 && now.Before(again) {
		return nil, fmt.Errorf("%w: wait until %s", ErrTooSoon, again.UTC().Format(time.RFC3339))
	}
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("generate signing key: %w", err)
	}
	var text bytes.Buffer
	for _, k := range []*rsa.PrivateKey{key, set.private[0].key} {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return nil, fmt.Errorf("encode signing key: %w", err)
		}
		if err := pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
			return nil, fmt.Errorf("encode signing key: %w", err)
		}
	}
	if err := replaceFile(file, text.Bytes()); err != nil {
		return nil, fmt.Errorf("replace signing keys: %w", err)
	}
	return LoadKeys(file)
}

// replaceFile makes the new text appear whole or not at all.
func replaceFile(file string, text []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, writeErr := tmp.Write(text)
	if err := errors.Join(writeErr, keepOwner(file, tmp), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// keepOwner gives a new file the owner of the one that it will replace: the program that
// reads it runs as somebody else than the operator.
func keepOwner(file string, next *os.File) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) == os.Geteuid() && int(owner.Gid) == os.Getegid() {
		return nil
	}
	return next.Chown(int(owner.Uid), int(owner.Gid))
}
