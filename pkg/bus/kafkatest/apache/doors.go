package apache

import (
	"context"
	"fmt"
	"strings"
)

// Doors are further listeners of a server, which demand a login, TLS, or both, besides the
// one at Server.Addr, which demands nothing.
type Doors struct {
	Users     map[string]string // password of each, for PLAIN and SCRAM
	StoreFile string            // PEM: the server's key and its certificate
	TrustFile string            // PEM: who signs the certificates of clients
	// SuperUsers may do everything, all others what an ACL allows them. Without any there is
	// no authorizer, and everybody may do everything.
	SuperUsers []string

	SASL    string // host:port of the door that wants a login; set by NewWithDoors, as the next
	SASLTLS string // a login, within TLS
	TLS     string // TLS with a client's certificate
}

const doorCount = 3

// NewWithDoors is New for a server that has the doors too, and fills in their addresses.
func NewWithDoors(ctx context.Context, dir string, doors *Doors) (*Server, error) {
	return prepare(ctx, dir, doors)
}

// users are the arguments that store the users for SCRAM; PLAIN has them in the properties.
func (d *Doors) users() []string {
	var args []string
	for user, password := range d.Users {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, user, password))
		}
	}
	return args
}

// properties overrides the listeners, since the last entry of a name holds.
func (d *Doors) properties(port, controllerPort int, free []int) string {
	d.SASL = fmt.Sprintf("127.0.0.1:%d", free[0])
	d.SASLTLS = fmt.Sprintf("127.0.0.1:%d", free[1])
	d.TLS = fmt.Sprintf("127.0.0.1:%d", free[2])
	doors := fmt.Sprintf("PLAINTEXT://127.0.0.1:%d,SASL_PLAINTEXT://%s,SASL_SSL://%s,SSL://%s", port, d.SASL, d.SASLTLS, d.TLS)
	lines := []string{
		fmt.Sprintf("listeners=%s,CONTROLLER://127.0.0.1:%d", doors, controllerPort),
		"advertised.listeners=" + doors,
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
		"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"ssl.keystore.type=PEM", "ssl.keystore.location=" + d.StoreFile,
		"ssl.truststore.type=PEM", "ssl.truststore.location=" + d.TrustFile,
		"listener.name.ssl.ssl.client.auth=required",
	}
	if len(d.SuperUsers) > 0 {
		lines = append(lines,
			"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			"allow.everyone.if.no.acl.found=false",
			// The node is nobody in particular to itself, through the door that demands nothing.
			"super.users=User:ANONYMOUS;User:"+strings.Join(d.SuperUsers, ";User:"))
	}
	var known strings.Builder
	for user, password := range d.Users {
		fmt.Fprintf(&known, " user_%s=%q", user, password)
	}
	for _, listener := range []string{"sasl_plaintext", "sasl_ssl"} {
		lines = append(lines,
			fmt.Sprintf("listener.name.%s.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required%s;", listener, &known))
		for _, mechanism := range []string{"scram-sha-256", "scram-sha-512"} {
			lines = append(lines, fmt.Sprintf("listener.name.%s.%s.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
				listener, mechanism))
		}
	}
	return strings.Join(append(lines, ""), "\n")
}
