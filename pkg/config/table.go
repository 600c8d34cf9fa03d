package config

import (
	"fmt"
	"io"
	"net/url"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"
)

// Print writes one line a variable: its name, its value, its default when it differs, and
// what it means. Secrets are replaced.
func (c Config) Print(to io.Writer) error {
	out := tabwriter.NewWriter(to, 0, 4, 2, ' ', 0)
	fmt.Fprintln(out, "VARIABLE\tVALUE\tDEFAULT\tMEANING")
	value := reflect.ValueOf(c)
	for i, field := range reflect.VisibleFields(value.Type()) {
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", field.Tag.Get("env"), show(value.Field(i), field.Tag.Get("secret")),
			orDash(field.Tag.Get("envDefault")), field.Tag.Get("about"))
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return nil
}

func show(value reflect.Value, secret string) string {
	if value.Kind() == reflect.Pointer {
		if value.IsNil() {
			return "-"
		}
		value = value.Elem()
	}
	var text string
	switch v := value.Interface().(type) {
	case []string:
		text = strings.Join(v, ",")
	case time.Duration:
		text = v.String()
	default:
		text = fmt.Sprint(v)
	}
	switch {
	case text == "" || secret == "":
		return orDash(text)
	case secret == "url":
		return redactURL(text)
	default:
		return "(set)"
	}
}

// redactURL keeps what tells two servers apart: scheme, user, host, path. The query may
// hold a password as well.
func redactURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return "(set)"
	}
	u.RawQuery, u.Fragment = "", ""
	return u.Redacted()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
