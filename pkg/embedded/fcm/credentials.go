package fcm

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	account       = "push@" + project + ".iam.gserviceaccount.com"
	grantType     = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	tokenLifetime = time.Hour
	maxTokens     = 1000
	keyBits       = 2048
)

// serviceAccount is the file that Google's console hands out.
type serviceAccount struct {
	Type        string `json:"type"`
	ProjectID   string `json:"project_id"`
	KeyID       string `json:"private_key_id"`
	PrivateKey  string `json:"private_key"`
	ClientEmail string `json:"client_email"`
	ClientID    string `json:"client_id"`
	TokenURI    string `json:"token_uri"`
}

// writeCredentials writes the service-account file for an endpoint, with the key of an
// earlier file when there is one, and returns the key.
func writeCredentials(path, endpoint string) (*rsa.PrivateKey, error) {
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = rsa.GenerateKey(rand.Reader, keyBits); err != nil {
			return nil, fmt.Errorf("generate the service account's key: %w", err)
		}
	}
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the service account's key: %w", err)
	}
	b, err := json.MarshalIndent(serviceAccount{
		Type: "service_account", ProjectID: project, KeyID: "local", ClientEmail: account, ClientID: "0",
		PrivateKey: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		TokenURI:   endpoint + "/token",
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the service account: %w", err)
	}
	// Renamed into place: a crash leaves the old file or the new one, never half of one.
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return nil, fmt.Errorf("write the service account: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return nil, fmt.Errorf("write the service account: %w", err)
	}
	return key, nil
}

func readKey(path string) (*rsa.PrivateKey, error) {
	b, err := os.ReadFile(path) //nolint:gosec // the path is the operator's own data directory
	if err != nil {
		return nil, fmt.Errorf("read the service account: %w", err)
	}
	var sa serviceAccount
	if err = json.Unmarshal(b, &sa); err != nil {
		return nil, fmt.Errorf("read the service account %s: %w", path, err)
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(sa.PrivateKey))
	if err != nil {
		return nil, fmt.Errorf("read the service account's key in %s: %w", path, err)
	}
	return key, nil
}

// serveToken exchanges an assertion signed with the service account's key for an access
// token, as oauth2.googleapis.com does.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil || r.PostForm.Get("grant_type") != grantType {
		tokenError(w, "unsupported_grant_type")
		return
	}
	_, err := jwt.Parse(r.PostForm.Get("assertion"), func(*jwt.Token) (any, error) { return &s.key.PublicKey, nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(s.Endpoint()+"/token"), jwt.WithIssuer(account),
		jwt.WithExpirationRequired())
	if err != nil {
		tokenError(w, "invalid_grant")
		return
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails since Go 1.24: it ends the process instead
	token := base64.RawURLEncoding.EncodeToString(raw)
	now := s.cfg.Clock()
	s.mu.Lock()
	if len(s.tokens) >= maxTokens {
		clear(s.tokens) // their holders get a 401 and ask again
	}
	s.tokens[token] = now.Add(tokenLifetime)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": token, "token_type": "Bearer", "expires_in": int(tokenLifetime.Seconds()),
	}) // a caller that has gone asks again
}

func tokenError(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code}) // as above
}

// RevokeTokens makes every access token handed out so far invalid.
func (s *Server) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

func (s *Server) authorized(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return false
	}
	now := s.cfg.Clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	ends, ok := s.tokens[token]
	return ok && now.Before(ends)
}
